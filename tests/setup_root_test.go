package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRootsOwnSetupIsItsOwnAndDoctorKnowsIt(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leftOut(t, "only root has the choice")
	}
	r := newSetupRig(t)
	mkdir(t, filepath.Join(r.home, ".config"))
	must := func(args ...string) string {
		t.Helper()
		stdout, stderr, err := r.run(t, args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s\n%s", args, err, stdout, stderr)
		}
		return stdout
	}
	before := tree(t, filepath.Join(r.home, ".config"))
	must("setup", "containerd", "--user", "--apply")
	file := filepath.Join(r.home, ".config/containerd/certs.d", upstreamName, "hosts.toml")
	must("setup", "containerd", "--user", "--check")
	if _, _, err := r.setup(t, "containerd", "--check"); err == nil {
		t.Error("the machine's set-up is said to be there")
	}
	if out, _, _ := r.run(t, "doctor"); !strings.Contains(out, "ok   client-config    set up: containerd --user") {
		t.Errorf("doctor does not know it:\n%s", out)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := r.run(t, "doctor"); !strings.Contains(out, "pushproxy setup containerd --user --apply") {
		t.Errorf("doctor does not miss it:\n%s", out)
	}
	must("setup", "containerd", "--user", "--undo")
	if got := tree(t, filepath.Join(r.home, ".config")); got != before {
		t.Errorf("left\n%s\nwant\n%s", got, before)
	}
}

func TestTheSystemsTrustIsAskedForAndGivenBack(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leftOut(t, "the system's trust is root's")
	}
	system(t, "update-ca-certificates")
	d := startDoors(t, nil)
	local, store := t.TempDir(), t.TempDir()
	// The machine's own store is not touched: the commands see copies in its place.
	inside := func(args ...string) string {
		t.Helper()
		script := `mount --bind "$0" /usr/local/share/ca-certificates && mount --bind "$1" /etc/ssl/certs && shift && exec "$@"`
		return command{env: cleanEnv(d.home)}.run(t, system(t, "unshare"), append([]string{"--mount", "--propagation=private", "/bin/sh", "-c", script, local, store}, args...)...)
	}
	inside("update-ca-certificates")
	before := tree(t, local) + tree(t, store)
	ask := []string{system(t, "curl"), "-sS", "--connect-to", fmt.Sprintf("::127.0.0.1:%d", d.Port), "https://localhost/v2/", "-H", fmt.Sprintf("Host: localhost:%d", d.Port)}
	inside(d.program, "ca", "install", "--config", d.file)
	if got := inside(ask...); got != "{}" {
		t.Errorf("curl, which trusts the system, got %q", got)
	}
	inside(d.program, "ca", "uninstall", "--config", d.file)
	if got := tree(t, local) + tree(t, store); got != before {
		t.Errorf("ca uninstall left %s", onlyIn(got, before))
	}
}

func TestRootSetsUpForAUserWithoutRunningWhatIsTheirs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leftOut(t, "acting for another user needs root")
	}
	r := newSetupRig(t)
	before := tree(t, r.root)
	const nobody = 65534
	bin, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	writeFile(t, filepath.Join(bin, "docker-credential-canary"), "#!/bin/sh\ntouch "+ran+"\necho '{}'\n", 0o755)
	r.env[0] = "PATH=" + bin + ":" + strings.TrimPrefix(r.env[0], "PATH=")
	writeFile(t, r.config.Credentials.DockerConfig, `{"credsStore":"canary"}`, 0o600)
	mkdir(t, r.config.DataDir)
	if err := os.Chown(r.config.DataDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := r.setup(t, "docker", "--apply"); err == nil || !strings.Contains(stderr, "pushproxy serve") {
		t.Errorf("without a CA of the user's: %v\n%s", err, stderr)
	}
	if _, _, err := r.run(t, "ca", "renew"); err == nil {
		t.Error("root made a CA for the user")
	}
	// The user's own start makes it.
	if err := os.Chown(r.config.DataDir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := r.run(t, "ca", "renew"); err != nil {
		t.Fatal(stderr)
	}
	_ = os.Remove(ran)
	if err := os.Chown(r.config.DataDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	// The configuration may be the user's, who is no other than whose data this is.
	if err := os.Chown(r.file, nobody-1, nobody-1); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := r.setup(t, "docker", "--apply"); err == nil || !strings.Contains(stderr, "belongs to user 65533") {
		t.Errorf("with a third user's configuration: %v\n%s", err, stderr)
	}
	if err := os.Chown(r.file, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"docker"}, {"docker", "--apply"}, {"docker", "--check"}} {
		r.must(t, args...)
	}
	if _, stderr, err := r.run(t, "ca", "install", "--root", r.root); err != nil {
		t.Errorf("ca install: %v\n%s", err, stderr)
	}
	if _, stderr, err := r.run(t, "ca", "uninstall", "--root", r.root); err != nil {
		t.Errorf("ca uninstall: %v\n%s", err, stderr)
	}
	if _, stderr, err := r.run(t, "serve"); err == nil || !strings.Contains(stderr, "belongs to user 65534") {
		t.Errorf("root serves with the user's configuration: %v\n%s", err, stderr)
	}
	if _, err := os.Stat(filepath.Join(r.root, "/etc/docker/certs.d", upstreamName, "pushproxy.crt")); err != nil {
		t.Error(err)
	}
	if journal := tree(t, r.config.DataDir); !strings.Contains(journal, "setup-trial.json -rw------- 65534:65534") {
		t.Errorf("the journal is not the user's:\n%s", journal)
	}
	r.must(t, "docker", "--undo")
	if _, err := os.Stat(ran); err == nil {
		t.Error("root ran the user's credential helper")
	}
	if got := tree(t, r.root); got != before {
		t.Errorf("left %s", onlyIn(got, before))
	}
}

func TestWhatRootSetUpForAUserIsFoundByTheUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leftOut(t, "acting for another user needs root")
	}
	r := newSetupRig(t)
	if _, stderr, err := r.run(t, "ca", "renew"); err != nil {
		t.Fatal(stderr)
	}
	const nobody = 65534
	// Other users cannot enter the directory above those of a test.
	if err := os.Chmod(filepath.Dir(r.home), 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(r.home, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(r.root, func(path string, e os.DirEntry, err error) error {
		mode := os.FileMode(0o644)
		if e.IsDir() {
			mode = 0o755
		}
		return errors.Join(err, os.Chmod(path, mode))
	})
	if err != nil {
		t.Fatal(err)
	}
	r.must(t, "containerd", "--apply")
	asUser := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), system(t, "setpriv"), append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", r.program,
			"--config", r.file, "setup", "containerd", "--root", r.root}, args...)...)
		cmd.Env = r.env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := asUser("--check"); err != nil {
		t.Errorf("--check: %v\n%s", err, out)
	}
	if out, err := asUser("--undo"); err == nil || !strings.Contains(out, "root undoes it, with your own home: sudo env HOME=") {
		t.Errorf("--undo: %v\n%s", err, out)
	}
	if out := r.must(t, "containerd", "--undo"); !strings.Contains(out, "restored "+filepath.Join(r.root, "/etc/containerd/certs.d", upstreamName, "hosts.toml")) {
		t.Errorf("--undo by root:\n%s", out)
	}
}
