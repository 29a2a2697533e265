package tests

import (
	"path/filepath"
	"strings"
	"testing"
)

// podman and buildah keep images unpacked and pack layers again when they push: what must be upstream is the digest that
// they report, and what is compared after a pull is the image id, the digest of the configuration.
type podman struct {
	program, home string
	store         string // a short path: podman refuses a longer runroot than 50 bytes
	flags         []string
	ids           map[string]string // tag → image id when pushed
}

func newPodman(t *testing.T, home, _ string) client {
	return podman{program: system(t, "podman"), home: home, store: shortDir(t), ids: map[string]string{},
		flags: []string{"--cgroup-manager=cgroupfs", "--events-backend=file"}}
}

func newBuildah(t *testing.T, home, _ string) client {
	return podman{program: system(t, "buildah"), home: home, store: shortDir(t), ids: map[string]string{}}
}

// in returns a function that runs the program with storage of its own below dir.
func (c podman) in(t *testing.T, dir string) func(args ...string) string {
	t.Helper()
	policy := writeFile(t, filepath.Join(c.home, ".config", "containers", "policy.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`, 0o600)
	writeFile(t, filepath.Join(c.home, ".config", "containers", "registries.conf"), "unqualified-search-registries = []\n", 0o600)
	flags := append([]string{"--storage-driver=vfs", "--root=" + filepath.Join(dir, "root"), "--runroot=" + filepath.Join(dir, "run")}, c.flags...)
	env := cleanEnv(c.home, "CONTAINERS_REGISTRIES_CONF="+filepath.Join(filepath.Dir(policy), "registries.conf"))
	return func(args ...string) string {
		t.Helper()
		return command{env: env}.run(t, c.program, append(flags, args...)...)
	}
}

func (c podman) push(t *testing.T, tag, ref string) string {
	t.Helper()
	run := c.in(t, c.store)
	digestFile := filepath.Join(t.TempDir(), "digest")
	if tag == "multi" {
		run("manifest", "create", "list-"+tag)
		run("manifest", "add", "--all", "list-"+tag, sampleRef(t, tag))
		run("manifest", "push", "--all", "--tls-verify=false", "--digestfile="+digestFile, "list-"+tag, "docker://"+ref)
		return strings.TrimSpace(readFile(t, digestFile))
	}
	c.ids[tag] = lastLine(run("pull", "-q", sampleRef(t, tag)))
	run("push", "--tls-verify=false", "--digestfile="+digestFile, c.ids[tag], "docker://"+ref)
	return strings.TrimSpace(readFile(t, digestFile))
}

func (c podman) pull(t *testing.T, tag, ref string) {
	t.Helper()
	run := c.in(t, shortDir(t))
	id := lastLine(run("pull", "-q", "--tls-verify=false", "--authfile="+authFile(t, ref), "docker://"+ref))
	if tag != "multi" { // of an index one platform is pulled; the whole was compared by digest before
		wantEqual(t, "the id of what was pulled", id, c.ids[tag])
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
