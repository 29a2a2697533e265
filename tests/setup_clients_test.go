package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// What `pushproxy setup CLIENT --apply` wrote, used by the client it was written for.

// apply sets a client up below root, which "" leaves as it is.
func (d *doors) apply(t *testing.T, client, root string) {
	t.Helper()
	args := []string{"setup", client, "--apply"}
	if root != "" {
		args = append(args, "--root", root)
	}
	if stdout, stderr, err := d.run(t, args...); err != nil {
		t.Fatalf("%v: %v\n%s\n%s", args, err, stdout, stderr)
	}
}

func TestADockerdThatWasSetUpPushesARealName(t *testing.T) {
	t.Parallel()
	d, root := startDoors(t, nil), t.TempDir()
	d.apply(t, "docker", root)
	unit := readFile(t, filepath.Join(root, "/etc/systemd/system/docker.service.d/pushproxy.conf"))
	var env []string
	for _, pair := range regexp.MustCompile(`"([A-Z_]+=[^"]*)"`).FindAllStringSubmatch(unit, -1) {
		env = append(env, pair[1])
	}
	c := proxiedDocker(t, filepath.Join(root, "/etc/docker/certs.d"), env...)
	s := samples(t)
	for _, ref := range []string{upstreamName + "/team/app:v1", fmt.Sprintf("localhost:%d/%s/team/other:v1", d.Port, upstreamName)} {
		c.load(t, s, s.multiImage(t), ref)
		_, repo, _ := strings.Cut(strings.TrimSuffix(ref, ":v1"), "/")
		d.holds(t, strings.TrimPrefix(repo, upstreamName+"/"), "v1", c.pushLoaded(t, ref))
	}
}

// multiImage is a small image: the first of those that the multi-platform one names.
func (s sample) multiImage(t *testing.T) desc {
	t.Helper()
	var index manifest
	readBlob(t, s, s.multi.Digest, &index)
	return index.Manifests[0]
}

func TestClientsThatWereSetUpPushWithoutFlags(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"podman", "buildah", "skopeo", "crane", "oras", "regctl"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDoors(t, nil)
			d.apply(t, name, "")
			if out, _, err := d.run(t, "setup", name, "--check"); err != nil {
				t.Errorf("--check: %v\n%s", err, out)
			}
			variables := []string{}
			for _, pair := range regexp.MustCompile(`(?m)^export (.*)$`).FindAllStringSubmatch(readFile(t, filepath.Join(d.home, ".config/pushproxy/proxy.env")), -1) {
				variables = append(variables, pair[1])
			}
			home := shortDir(t)
			// The home that was set up, and storage at a path that is short enough.
			env := append(cleanEnv(d.home), variables...)
			d.holds(t, "team/real", "v1", doorPush(t, name, home, env, upstreamName+"/team/real:v1"))
			switch name {
			case "podman", "buildah", "skopeo":
				env = cleanEnv(d.home) // a directory per registry is enough for localhost
			}
			d.holds(t, "team/local", "v1", doorPush(t, name, shortDir(t), env, fmt.Sprintf("localhost:%d/%s/team/local:v1", d.Port, upstreamName)))
		})
	}
}

// newer returns a program that is newer than the packaged one.
func newer(t *testing.T, name string) string {
	t.Helper()
	for _, s := range parts.Newer() {
		if s.Name == name {
			path, err := s.Build(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatalf("no program %q", name)
	return ""
}

func TestContainerdPushesARealNameToTheRegistryDoor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		find  func(t *testing.T, name string) string
		tls   string
		hosts func(t *testing.T, d *doors) string // the directory of hosts.toml files
	}{
		{"2.4 as set up", newer, "auto", setUpHosts},
		{"2.4 as set up without TLS", newer, "off", setUpHosts},
		{"1.6 as set up", system, "auto", setUpHosts},
		{"2.4 with the namespace alone", newer, "auto", plainHosts},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := startDoors(t, func(r *rig) { r.config.TLS = c.tls })
			run, _ := startContainerd(t, c.find(t, "containerd"), c.find(t, "ctr"))
			hosts := c.hosts(t, d)
			for _, tag := range []string{"single", "multi"} {
				ref := upstreamName + "/team/" + tag + ":v1"
				run("images", "push", "--hosts-dir", hosts, ref, "sample:"+tag)
				d.holds(t, "team/"+tag, "v1", digestInSample(t, tag))
				run("content", "fetch", "--hosts-dir", hosts, "--all-platforms", ref)
			}
			// Tags and the deletion of an image go the same way where a client names the registry.
			a := d.api()
			got := a.want(t, 200, "GET", "/v2/team/single/tags/list?ns="+upstreamName, nil)
			if !strings.Contains(string(got.body), `"v1"`) || !strings.Contains(string(got.body), `"team/single"`) {
				t.Errorf("tags with a namespace: %v", got)
			}
		})
	}
}

func setUpHosts(t *testing.T, d *doors) string {
	t.Helper()
	root := t.TempDir()
	d.apply(t, "containerd", root)
	return filepath.Join(root, "/etc/containerd/certs.d")
}

// plainHosts is what the distribution specification thinks of: the registry is in the query and nowhere else.
func plainHosts(t *testing.T, d *doors) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, upstreamName, "hosts.toml"), fmt.Sprintf("server = \"https://%s\"\n[host.\"https://localhost:%d\"]\n"+
		"  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = %q\n", upstreamName, d.Port, d.caFile()), 0o644)
	return dir
}

// startContainerd runs a containerd that holds the shared images, and returns its ctr and its socket.
func startContainerd(t *testing.T, daemon, ctr string) (run func(args ...string) string, socket string) {
	t.Helper()
	if os.Geteuid() != 0 {
		leftOut(t, "containerd runs as root only")
	}
	dir := shortDir(t)
	config := writeFile(t, filepath.Join(dir, "config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\"]\n", 0o600)
	socket = filepath.Join(dir, "c.sock")
	cmd := exec.Command(daemon, "--config", config, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", socket)
	cmd.Env = cleanEnv(dir)
	startDaemon(t, cmd, func() error { return exec.Command(ctr, "--address", socket, "version").Run() })
	run = func(args ...string) string {
		t.Helper()
		return command{env: cleanEnv(dir)}.run(t, ctr, append([]string{"--address", socket, "--namespace", "test"}, args...)...)
	}
	run("images", "import", "--no-unpack", "--all-platforms", "--base-name", "sample", tarOf(t, samples(t).dir))
	return run, socket
}

func TestBuildKitThatWasSetUpPushesARealName(t *testing.T) {
	t.Parallel()
	daemon, client := newer(t, "buildkitd"), newer(t, "buildctl")
	if os.Geteuid() != 0 {
		leftOut(t, "buildkitd runs as root only")
	}
	d, root, dir := startDoors(t, nil), t.TempDir(), shortDir(t)
	d.apply(t, "buildkit", root)
	address := "unix://" + filepath.Join(dir, "b.sock")
	cmd := exec.Command(daemon, "--addr", address, "--root", filepath.Join(dir, "root"), "--config", filepath.Join(root, "/etc/buildkit/buildkitd.toml"),
		"--oci-worker=true", "--oci-worker-snapshotter=native", "--containerd-worker=false")
	cmd.Env = cleanEnv(dir, "HTTPS_PROXY=http://"+d.proxy)
	startDaemon(t, cmd, func() error { return exec.Command(client, "--addr", address, "debug", "workers").Run() })
	source := t.TempDir()
	writeFile(t, filepath.Join(source, "Dockerfile"), "FROM scratch\nCOPY hello /hello\n", 0o644)
	writeFile(t, filepath.Join(source, "hello"), "built\n", 0o644)
	file := filepath.Join(dir, "metadata.json")
	for ref, repo := range map[string]string{
		upstreamName + "/team/built:v1":                                    "team/built",
		fmt.Sprintf("localhost:%d/%s/team/local:v1", d.Port, upstreamName): "team/local",
	} {
		command{env: cleanEnv(dir)}.run(t, client, "--addr", address, "build", "--frontend=dockerfile.v0", "--local", "context="+source, "--local", "dockerfile="+source,
			"--output", "type=image,push=true,name="+ref, "--metadata-file", file)
		var built struct {
			Digest string `json:"containerimage.digest"`
		}
		if err := json.Unmarshal([]byte(readFile(t, file)), &built); err != nil {
			t.Fatal(err)
		}
		d.holds(t, repo, "v1", built.Digest)
	}
}
