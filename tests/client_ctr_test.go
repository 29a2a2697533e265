package tests

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// ctr pushes from the content store of a containerd that runs for this test only.
type ctr struct {
	run func(t *testing.T, args ...string) string
}

func newCtr(t *testing.T, home, _ string) client {
	t.Helper()
	program, daemon := system(t, "ctr"), system(t, "containerd")
	if os.Geteuid() != 0 {
		leftOut(t, "containerd runs as root only")
	}
	// A socket's path has 107 bytes at most, which a test's directory may exceed.
	dir := shortDir(t)
	config := writeFile(t, filepath.Join(dir, "config.toml"), "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", 0o600)
	socket := filepath.Join(dir, "c.sock")
	cmd := exec.Command(daemon, "--config", config, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", socket)
	cmd.Env = cleanEnv(home)
	startDaemon(t, cmd, func() error { return exec.Command(program, "--address", socket, "version").Run() })
	c := ctr{run: func(t *testing.T, args ...string) string {
		t.Helper()
		return command{env: cleanEnv(home)}.run(t, program, append([]string{"--address", socket, "--namespace", "test"}, args...)...)
	}}
	c.run(t, "images", "import", "--no-unpack", "--all-platforms", "--base-name", "sample", tarOf(t, samples(t).dir))
	return c
}

func (c ctr) push(t *testing.T, tag, ref string) string {
	t.Helper()
	c.run(t, "images", "push", "--plain-http", ref, "sample:"+tag)
	return digestInSample(t, tag)
}

func (c ctr) pull(t *testing.T, tag, ref string) {
	t.Helper()
	u := parts.Alice()
	c.run(t, "content", "fetch", "--plain-http", "--all-platforms", "--user", u.Name+":"+u.Password, ref)
	for line := range strings.Lines(c.run(t, "images", "ls")) {
		if strings.HasPrefix(line, ref+" ") {
			wantEqual(t, "the digest of what ctr pulled", strings.Fields(line)[2], digestInSample(t, tag))
			return
		}
	}
	t.Errorf("ctr does not list %s after fetching it", ref)
}

// startDaemon runs a daemon until the test ends and waits until probe succeeds.
func startDaemon(t *testing.T, cmd *exec.Cmd, probe func() error) {
	t.Helper()
	p, err := parts.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(cmd.Path), lastLines(p.Output(), 15))
		}
	})
	ctx, cancel := contextFor(t, patience)
	defer cancel()
	if err := p.Ready(ctx, probe); err != nil {
		t.Fatal(err)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// tarOf packs a directory.
func tarOf(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "packed.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
