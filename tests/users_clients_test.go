package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dockerd is root's: where several people have accounts, only a token says for whom it pushes.
func TestTwoPeopleAndDocker(t *testing.T) {
	t.Parallel()
	s := startShared(t)
	c := newDocker(t, s.ann.home, "").(docker)
	img := samples(t)
	ref := s.ref("acme/docker", "v1")
	c.load(t, img, img.multi1(t), ref)
	env := cleanEnv(c.home, "DOCKER_HOST="+c.socket)
	if out, errs, err := (command{env: env}).try(t, c.program, "push", ref); err == nil {
		t.Fatalf("dockerd pushes for nobody: %s %s", out, errs)
	}
	if got := s.rec.requests(); len(got) > 0 {
		t.Errorf("what dockerd was refused went upstream:\n%s", got)
	}
	if _, errs, err := s.ann.as(t, "", filepath.Join(s.ann.home, "bin/pushproxy"), "login", "--config", s.file, "--docker-config", filepath.Join(s.ann.home, ".docker")); err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	pushed := c.pushLoaded(t, ref)
	wantEqual(t, "the upstream's digest", upstreamAPI(s.reg).pull(t, "acme/docker", "v1"), pushed)
	// docker's own login takes a token, too.
	host := fmt.Sprintf("localhost:%d", s.Port)
	login := func(token string) error {
		tokenFile := writeFile(t, filepath.Join(t.TempDir(), "token"), token, 0o600)
		_, _, err := command{env: append(env, "DOCKER_CONFIG="+t.TempDir())}.try(t, "/bin/sh", "-c", c.program+" login "+host+" -u x --password-stdin < "+tokenFile)
		return err
	}
	if err := login(s.token(t, "by-docker")); err != nil {
		t.Errorf("docker login: %v", err)
	}
	if err := login("ppx_wrong"); err == nil {
		t.Error("docker login takes any token")
	}
}

// multi1 is one small image of the samples.
func (s sample) multi1(t *testing.T) desc {
	t.Helper()
	var index manifest
	readBlob(t, s, s.multi.Digest, &index)
	return index.Manifests[0]
}

// podman without root is its user's process, in a user namespace of its own.
func TestTwoPeopleAndPodman(t *testing.T) {
	t.Parallel()
	s := startShared(t)
	program, img := system(t, "podman"), newImage(t, 42)
	push := func(p person, repo string) (string, error) {
		dir := filepath.Join(p.home, "podman")
		p.gives(t, img.dir, "image")
		policy := writeFile(t, filepath.Join(p.home, ".config", "containers", "policy.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`, 0o600)
		writeFile(t, filepath.Join(filepath.Dir(policy), "registries.conf"), "unqualified-search-registries = []\n", 0o600)
		p.owns(t)
		flags := "--storage-driver=vfs --root=" + dir + "/root --runroot=" + dir + "/run --cgroup-manager=cgroupfs --events-backend=file"
		script := fmt.Sprintf("set -e; id=$(%[1]s %[2]s pull -q oci:%[3]s/image:v1); %[1]s %[2]s push --tls-verify=false $id docker://%[4]s", program, flags, p.home, s.ref(repo, "v1"))
		_, errs, err := p.as(t, "", "/bin/sh", "-c", script)
		return errs, err
	}
	errs, err := push(s.ann, "acme/podman")
	if err != nil && (strings.Contains(errs, "newuidmap") || strings.Contains(errs, "user namespace") || strings.Contains(errs, "subuid")) {
		leftOut(t, "podman cannot run without root here: "+lastLines(errs, 2))
	}
	if err != nil {
		t.Fatalf("Ann cannot push: %v\n%s", err, lastLines(errs, 10))
	}
	upstreamAPI(s.reg).pull(t, "acme/podman", "v1")
	if _, err := os.Stat(filepath.Join(s.ann.home, ".docker")); err == nil {
		t.Error("podman needed a login")
	}
	s.rec.reset()
	if errs, err := push(s.bob, "acme/bob"); err == nil || len(s.rec.requests()) > 0 {
		t.Errorf("Bob pushes as Ann: %v\n%s\n%s", err, lastLines(errs, 5), s.rec)
	}
}
