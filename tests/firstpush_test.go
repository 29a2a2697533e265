package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// mostCommands and mostTime bound a first push by the README alone: after `serve`, for who has an image and is logged in.
const (
	mostCommands = 3
	mostTime     = 2 * time.Minute
)

// readmeBlock returns the commands of the README's block that begins with "# client".
func readmeBlock(t *testing.T, client string) []string {
	t.Helper()
	block := regexp.MustCompile("(?s)```\n# " + client + "[^\n]*\n(.*?)```").FindStringSubmatch(readFile(t, filepath.Join(root(t), "README.md")))
	if block == nil {
		t.Fatalf("the README has no block for %s", client)
	}
	return strings.Split(strings.TrimSpace(block[1]), "\n")
}

// reader follows the README on a machine of its own: /etc/docker, /etc/containerd and systemd's units are copies.
type reader struct {
	d    *doors
	etc  string
	bin  string
	env  []string
	took time.Duration
}

func newReader(t *testing.T) *reader {
	t.Helper()
	if os.Geteuid() != 0 {
		leftOut(t, "a machine of one's own needs root")
	}
	system(t, "unshare")
	r := &reader{d: startDoors(t, nil), etc: t.TempDir(), bin: t.TempDir()}
	for _, dir := range []string{"docker", "containerd", "systemd/system"} {
		mkdir(t, filepath.Join(r.etc, dir))
	}
	r.program(t, "sudo", `exec "$@"`)
	r.program(t, "systemctl", `exit 0`)
	r.program(t, "pushproxy", `exec `+r.d.rig.program+` "$@"`)
	r.env = append(cleanEnv(r.d.home), "PUSHPROXY_CONFIG="+r.d.file)
	r.env[0] = "PATH=" + r.bin + ":" + strings.TrimPrefix(r.env[0], "PATH=")
	return r
}

// program puts a script on the reader's path.
func (r *reader) program(t *testing.T, name, script string) {
	t.Helper()
	writeFile(t, filepath.Join(r.bin, name), "#!/bin/sh\n"+script+"\n", 0o755)
}

// types runs one line of the README.
func (r *reader) types(t *testing.T, line string) {
	t.Helper()
	line = strings.NewReplacer("ghcr.io/", upstreamName+"/", "localhost:5001", fmt.Sprintf("localhost:%d", r.d.Port)).Replace(line)
	script := `for d in docker containerd systemd/system; do mkdir -p /etc/$d; mount --bind "$0/$d" /etc/$d || exit 1; done; eval "$1"`
	begin := time.Now()
	command{env: r.env, dir: r.d.home}.run(t, system(t, "unshare"), "--mount", "--propagation=private", "/bin/sh", "-c", script, r.etc, line)
	r.took += time.Since(begin)
}

func TestAFirstPushByTheReadmeAlone(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, r *reader) (beforePush func(), want func() string){
		"docker": func(t *testing.T, r *reader) (func(), func() string) {
			var c docker
			return func() { // systemd would start it again with what the set-up wrote
					unit := readFile(t, filepath.Join(r.etc, "systemd/system/docker.service.d/pushproxy.conf"))
					var env []string
					for _, pair := range regexp.MustCompile(`"([A-Z_]+=[^"]*)"`).FindAllStringSubmatch(unit, -1) {
						env = append(env, pair[1])
					}
					c = proxiedDocker(t, filepath.Join(r.etc, "docker/certs.d"), env...)
					r.program(t, "docker", fmt.Sprintf(`exec %s -H %s "$@"`, c.program, c.socket))
					c.load(t, samples(t), samples(t).multiImage(t), upstreamName+"/acme/app:1")
				}, func() string {
					out := c.run(t, c.socket, "image", "inspect", "--format={{index .RepoDigests 0}}", upstreamName+"/acme/app:1")
					_, digest, _ := strings.Cut(strings.TrimSpace(out), "@")
					return digest
				}
		},
		"podman": func(t *testing.T, r *reader) (func(), func() string) {
			program, store := system(t, "podman"), shortDir(t)
			flags := fmt.Sprintf("--storage-driver=vfs --root=%s/root --runroot=%s/run --cgroup-manager=cgroupfs --events-backend=file", store, store)
			r.program(t, "podman", fmt.Sprintf(`exec %s %s "$@"`, program, flags))
			conf := filepath.Join(r.d.home, ".config", "containers")
			writeFile(t, filepath.Join(conf, "policy.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`, 0o600)
			r.env = append(r.env, "CONTAINERS_REGISTRIES_CONF="+writeFile(t, filepath.Join(conf, "registries.conf"), "unqualified-search-registries = []\n", 0o600))
			run := func(args ...string) string {
				return lastLine(command{env: r.env}.run(t, program, append(strings.Fields(flags), args...)...))
			}
			run("tag", run("pull", "-q", sampleRef(t, "single")), upstreamName+"/acme/app:1")
			// podman packs layers again; the image's id, the digest of its configuration, is what stays.
			return nil, func() string { return "" }
		},
		"containerd": func(t *testing.T, r *reader) (func(), func() string) {
			// The daemon reads the directory itself, and so sees the same copy.
			r.program(t, "containerd", fmt.Sprintf(`exec %s --mount --propagation=private /bin/sh -c 'mkdir -p /etc/containerd; mount --bind "$0" /etc/containerd && exec %s "$@"' %s "$@"`,
				system(t, "unshare"), newer(t, "containerd"), filepath.Join(r.etc, "containerd")))
			run, socket := startContainerd(t, filepath.Join(r.bin, "containerd"), newer(t, "ctr"))
			run("images", "tag", "sample:single", upstreamName+"/acme/app:1")
			r.program(t, "ctr", fmt.Sprintf(`exec %s --address %s --namespace test "$@"`, newer(t, "ctr"), socket))
			return nil, func() string { return digestInSample(t, "single") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReader(t)
			beforePush, want := prepare(t, r)
			lines := readmeBlock(t, name)
			for i, line := range lines {
				if i == len(lines)-1 && beforePush != nil {
					beforePush()
				}
				r.types(t, line)
			}
			t.Logf("%s: a first push took %d commands and %s", name, len(lines), r.took.Round(100*time.Millisecond))
			if len(lines) > mostCommands || r.took > mostTime {
				t.Errorf("%d commands and %s, at most %d and %s are a first push", len(lines), r.took, mostCommands, mostTime)
			}
			up := api{url: r.d.upstream.URL, user: parts.Alice(), client: r.d.cert.client()}
			if got := up.pull(t, "acme/app", "1"); want() != "" && got != want() {
				t.Errorf("the upstream holds %s, want %s", got, want())
			}
		})
	}
}
