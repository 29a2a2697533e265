package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// allSetups are the names that `pushproxy setup` knows.
func allSetups() []string {
	return []string{"docker", "docker-desktop", "colima", "podman", "podman-machine", "buildah", "skopeo", "containerd", "nerdctl", "buildkit",
		"crane", "oras", "regctl", "kubernetes", "systemd", "launchd"}
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
			r.isAs(t, before)
			if _, err := os.Stat(filepath.Join(r.config.DataDir, "setup-trial.json")); err == nil {
				t.Error("--undo left a journal")
			}
			r.must(t, client, "--undo")
		})
	}
}

func TestASetupIsPrintedForPeople(t *testing.T) {
	t.Parallel()
	r := newSetupRig(t)
	r.must(t, "skopeo", "--apply")
	if out := r.must(t, "skopeo", "--undo"); !strings.Contains(out, "removed ") || strings.Contains(out, "restored") {
		t.Errorf("nothing was there before:\n%s", out)
	}
	out := r.must(t, "skopeo")
	for _, want := range []string{"skopeo copy … docker://localhost:", "(the CA: what is in " + filepath.Join(r.config.DataDir, "ca/ca.pem") + ")"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "BEGIN CERTIFICATE") {
		t.Errorf("certificates are printed:\n%s", out)
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
	r.isAs(t, before)
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
	r.isAs(t, before)
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
	r.isAs(t, before)
}

func TestEnginesInVirtualMachinesAreNoticedAndExplained(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		client, has string
		words       []string
	}{
		"Docker Desktop": {"docker", ".docker/desktop", []string{"host.docker.internal", "Settings", "virtual machine"}},
		"Colima":         {"docker", ".colima", []string{"192.168.5.2", "colima start", "virtual machine"}},
		"podman machine": {"podman", ".config/containers/podman/machine", []string{"setup podman-machine"}},
		"asked by name":  {"podman-machine", "x", []string{"host.containers.internal", "podman machine ssh", "virtual machine"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newSetupRig(t)
			if err := os.RemoveAll(filepath.Join(r.root, "/etc/docker")); err != nil {
				t.Fatal(err)
			}
			mkdir(t, filepath.Join(r.root, r.home, c.has))
			out := r.must(t, c.client)
			for _, word := range c.words {
				if !strings.Contains(out, word) {
					t.Errorf("the text does not say %q:\n%s", word, out)
				}
			}
			if strings.Contains(out, "/etc/systemd") {
				t.Errorf("it would write for a daemon that is not here:\n%s", out)
			}
		})
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
	r.isAs(t, before)
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
			r.isAs(t, before)
		})
	}
}
