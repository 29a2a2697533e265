package tests

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// allSetups are the names that `pushproxy setup` knows.
func allSetups() []string {
	return []string{"docker", "docker-desktop", "colima", "podman", "podman-machine", "buildah", "skopeo", "containerd", "nerdctl", "buildkit",
		"crane", "oras", "regctl", "kubernetes", "systemd", "launchd"}
}

// tree is every file, directory and link below dir, with mode, owner and content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case e.Type() == fs.ModeSymlink:
			what, err = os.Readlink(path)
		case e.Type().IsRegular():
			var b []byte
			b, err = os.ReadFile(path)
			sum := sha256.Sum256(b)
			what = hex.EncodeToString(sum[:])
		}
		s := info.Sys().(*syscall.Stat_t)
		lines = append(lines, fmt.Sprintf("%s %s %d:%d %s", strings.TrimPrefix(path, dir), info.Mode(), s.Uid, s.Gid, what))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// setupRig is a home and an /etc as people have them, which no set-up may damage.
type setupRig struct {
	*rig
	root string
}

func newSetupRig(t *testing.T) *setupRig {
	t.Helper()
	r := &setupRig{root: t.TempDir()}
	program := pushproxyProgram(t, buildPlain) // hundreds of short runs
	r.rig = prepare(t, "http://127.0.0.1:1", func(r *rig) {
		r.program = program
		r.config.ForwardProxy.Listen = []string{"127.0.0.1:5002"}
	})
	for path, content := range map[string]string{
		"/etc/docker/daemon.json":                                  `{"log-driver":"local"}`,
		"/etc/docker/certs.d/" + upstreamName + "/ca.crt":          "the company's own\n",
		"/etc/systemd/system/docker.service.d/http-proxy.conf":     "[Service]\nEnvironment=HTTP_PROXY=http://corp:3128\n",
		"/etc/containerd/certs.d/" + upstreamName + "/hosts.toml":  "server = \"https://" + upstreamName + "\"\n\n[host.\"https://mirror.corp\"]\n  capabilities = [\"pull\"]",
		"/etc/buildkit/buildkitd.toml":                             "debug = true\n\n[registry.\"other.test\"]\n  http = true",
		r.home + "/.config/containers/registries.conf":             "unqualified-search-registries = []\n",
		r.home + "/.docker/config.json":                            "{\n\t\"auths\": {}\n}",
		"/usr/local/share/ca-certificates/corp.crt":                "corp\n",
		"/etc/systemd/system/multi-user.target.wants/.placeholder": "",
	} {
		writeFile(t, filepath.Join(r.root, path), content, 0o640)
	}
	return r
}

func (r *setupRig) setup(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return r.run(t, append([]string{"setup", "--root", r.root}, args...)...)
}

func (r *setupRig) must(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, err := r.setup(t, args...)
	if err != nil {
		t.Fatalf("setup %v: %v\n%s\n%s", args, err, stdout, stderr)
	}
	return stdout
}

func TestEachSetupIsAppliedCheckedAndUndoneByteForByte(t *testing.T) {
	t.Parallel()
	for _, client := range allSetups() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			r := newSetupRig(t)
			before := tree(t, r.root)
			printed := r.must(t, client)
			if got := tree(t, r.root); got != before {
				t.Fatalf("printing changed something:\n%s", got)
			}
			writes := strings.Contains(printed, "would write") || strings.Contains(printed, "would change")
			if _, _, err := r.setup(t, client, "--check"); err == nil {
				t.Error("--check finds nothing missing before --apply")
			}
			r.must(t, client, "--apply")
			applied := tree(t, r.root)
			if (applied != before) != writes {
				t.Errorf("--apply changed something: %v; printed:\n%s", applied != before, printed)
			}
			r.must(t, client, "--check")
			r.must(t, client, "--apply")
			if got := tree(t, r.root); got != applied {
				t.Errorf("a second --apply changed something:\n%s\nwas\n%s", got, applied)
			}
			r.must(t, client, "--undo")
			if got := tree(t, r.root); got != before {
				t.Errorf("--undo left\n%s\nwant\n%s", got, before)
			}
			if _, err := os.Stat(filepath.Join(r.config.DataDir, "setup-trial.json")); err == nil {
				t.Error("--undo left a journal")
			}
			r.must(t, client, "--undo")
		})
	}
}

func TestSetupsThatShareFilesLeaveThemToEachOther(t *testing.T) {
	t.Parallel()
	r := newSetupRig(t)
	before := tree(t, r.root)
	for _, client := range allSetups() {
		r.must(t, client, "--apply")
	}
	r.must(t, "podman", "--undo")
	for _, client := range []string{"skopeo", "buildah", "crane", "docker"} {
		r.must(t, client, "--check")
	}
	for _, client := range allSetups() {
		r.must(t, client, "--undo")
	}
	if got := tree(t, r.root); got != before {
		t.Errorf("left\n%s\nwant\n%s", got, before)
	}
}

func TestASetupFollowsItsRegistriesAndTheCA(t *testing.T) {
	t.Parallel()
	r := newSetupRig(t)
	before := tree(t, r.root)
	r.must(t, "docker", "--apply")
	crt := filepath.Join(r.root, "/etc/docker/certs.d", upstreamName, "pushproxy.crt")
	first := readFile(t, crt)
	if _, stderr, err := r.run(t, "ca", "renew"); err != nil {
		t.Fatal(err, stderr)
	}
	if out, _, err := r.setup(t, "docker", "--check"); err == nil || !strings.Contains(out, crt) {
		t.Errorf("after a renewal --check says\n%s", out)
	}
	r.must(t, "docker", "--apply")
	if readFile(t, crt) == first {
		t.Error("--apply left the old CA")
	}
	r.config.Upstreams[0].Host = "second.test"
	writeFile(t, r.config.Credentials.DockerConfig, "{}", 0o600)
	r.written(t)
	r.must(t, "docker", "--apply")
	if _, err := os.Stat(crt); err == nil {
		t.Error("the certificate of a registry that is gone is still there")
	}
	if _, err := os.Stat(filepath.Join(r.root, "/etc/docker/certs.d/second.test/pushproxy.crt")); err != nil {
		t.Error(err)
	}
	r.must(t, "docker", "--undo")
	if got := tree(t, r.root); got != before {
		t.Errorf("left\n%s\nwant\n%s", got, before)
	}
}

func TestASetupThatWasKilledIsUndone(t *testing.T) {
	t.Parallel()
	var killed int
	for delay := 2 * time.Millisecond; delay < 400*time.Millisecond && killed < 12; delay = delay * 5 / 4 {
		r := newSetupRig(t)
		// The CA is made before, so that the time goes into the set-up.
		r.must(t, "crane", "--apply")
		r.must(t, "crane", "--undo")
		before := tree(t, r.root)
		cmd := command{env: r.env, dir: r.home}
		if ended := cmd.killed(t, delay, r.program, "setup", "--root", r.root, "--config", r.file, "podman", "--apply"); !ended && tree(t, r.root) != before {
			killed++
		}
		r.must(t, "podman", "--undo")
		if got := tree(t, r.root); got != before {
			t.Fatalf("killed after %s, --undo left\n%s\nwant\n%s", delay, got, before)
		}
	}
	t.Logf("%d set-ups were killed halfway", killed)
}

func TestAHalfAppliedSetupIsUndone(t *testing.T) {
	t.Parallel()
	r := newSetupRig(t)
	before := tree(t, r.root)
	r.must(t, "docker", "--apply")
	// As a kill leaves it: one file not written yet, and another half way under its other name.
	crt := filepath.Join(r.root, "/etc/docker/certs.d", upstreamName, "pushproxy.crt")
	if err := os.Rename(crt, crt+".pushproxy-new"); err != nil {
		t.Fatal(err)
	}
	r.must(t, "docker", "--undo")
	if got := tree(t, r.root); got != before {
		t.Errorf("left\n%s\nwant\n%s", got, before)
	}
}

func TestWhatSomebodyChangedAfterASetupIsNotLost(t *testing.T) {
	t.Parallel()
	r := newSetupRig(t)
	before := tree(t, r.root)
	r.must(t, "containerd", "--apply")
	file := filepath.Join(r.root, "/etc/containerd/certs.d", upstreamName, "hosts.toml")
	writeFile(t, file, readFile(t, file)+"\n# by hand\n", 0o640)
	for _, how := range []string{"--apply", "--undo"} {
		if _, stderr, err := r.setup(t, "containerd", how); err == nil || !strings.Contains(stderr, file) {
			t.Errorf("%s: %v\n%s", how, err, stderr)
		}
		if !strings.Contains(readFile(t, file), "# by hand") {
			t.Fatalf("%s threw it away", how)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.must(t, "containerd", "--undo")
	if got := tree(t, r.root); got != before {
		t.Errorf("left\n%s\nwant\n%s", got, before)
	}
}

func TestABadSetupChangesNothingAndSaysWhy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args   []string
		change func(t *testing.T, r *setupRig)
		words  []string
	}{
		"an unknown client":  {[]string{"dokcer", "--apply"}, nil, []string{"dokcer", "podman", "containerd"}},
		"two things at once": {[]string{"docker", "--apply", "--undo"}, nil, []string{"apply", "undo"}},
		"a directory where a file goes": {[]string{"docker", "--apply"}, func(t *testing.T, r *setupRig) {
			mkdir(t, filepath.Join(r.root, "/etc/docker/certs.d", upstreamName, "pushproxy.crt"))
		}, []string{"pushproxy.crt", "not a regular file"}},
		"a file where a directory goes": {[]string{"podman", "--apply"}, func(t *testing.T, r *setupRig) {
			writeFile(t, filepath.Join(r.root, r.home, ".config/containers/certs.d"), "", 0o644)
		}, []string{"certs.d", "not a directory"}},
		"a link that leads nowhere": {[]string{"crane", "--apply"}, func(t *testing.T, r *setupRig) {
			mkdir(t, filepath.Join(r.root, r.home, ".config/pushproxy"))
			if err := os.Symlink("/nowhere/at/all", filepath.Join(r.root, r.home, ".config/pushproxy/proxy.env")); err != nil {
				t.Fatal(err)
			}
		}, []string{"proxy.env", "link"}},
		"a table that is there already": {[]string{"buildkit", "--apply"}, func(t *testing.T, r *setupRig) {
			writeFile(t, filepath.Join(r.root, "/etc/buildkit/buildkitd.toml"), "[registry.\""+upstreamName+"\"]\n  http = true\n", 0o644)
		}, []string{"buildkitd.toml", upstreamName, "by hand"}},
		"no forward-proxy door": {[]string{"docker", "--apply"}, func(t *testing.T, r *setupRig) {
			r.config.ForwardProxy.Listen = nil
			r.written(t)
		}, []string{"forward_proxy.listen"}},
		"a damaged CA": {[]string{"docker", "--apply"}, func(t *testing.T, r *setupRig) {
			r.must(t, "docker", "--apply")
			r.must(t, "docker", "--undo")
			file := filepath.Join(r.config.DataDir, "ca/1/root.pem")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			writeFile(t, file, "x", 0o444)
		}, []string{"root.pem", "pushproxy ca renew"}},
		"a damaged journal": {[]string{"docker", "--apply"}, func(t *testing.T, r *setupRig) {
			writeFile(t, filepath.Join(r.config.DataDir, "setup-trial.json"), "{", 0o600)
		}, []string{"setup-trial.json"}},
		"a file system that cannot be written": {[]string{"docker", "--apply"}, func(t *testing.T, r *setupRig) {
			if os.Geteuid() != 0 {
				leftOut(t, "a mount of its own for one program needs root")
			}
			r.program = writeFile(t, filepath.Join(t.TempDir(), "pushproxy"), "#!/bin/sh\nexec "+system(t, "unshare")+" --mount --propagation=private /bin/sh -c "+
				`'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"' `+r.root+" "+r.program+` "$@"`+"\n", 0o755)
		}, []string{"may not write", "pushproxy.conf", "sudo"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newSetupRig(t)
			if c.change != nil {
				c.change(t, r)
			}
			before := tree(t, r.root)
			_, stderr, err := r.setup(t, c.args...)
			if err == nil {
				t.Fatal("it went well")
			}
			for _, word := range c.words {
				if !strings.Contains(stderr, word) {
					t.Errorf("the message does not say %q:\n%s", word, stderr)
				}
			}
			if got := tree(t, r.root); got != before {
				t.Errorf("it left\n%s\nwant\n%s", got, before)
			}
		})
	}
}

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

// onlyIn lists the lines that are in one tree and not in the other.
func onlyIn(got, want string) string {
	var b strings.Builder
	for _, pair := range [][3]string{{"+", got, want}, {"-", want, got}} {
		for line := range strings.Lines(pair[1]) {
			if !strings.Contains(pair[2], strings.TrimSpace(line)) {
				b.WriteString("\n" + pair[0] + " " + strings.TrimSpace(line))
			}
		}
	}
	return b.String()
}
