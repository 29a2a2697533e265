package tests

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// docker 20.10 unpacks layers and packs them again when it pushes, so digests change and the image id is compared. It
// pushes an index only by way of `docker manifest`, after its images.
type docker struct {
	program, home, socket string
}

func newDocker(t *testing.T, home, _ string) client {
	t.Helper()
	program, daemon := system(t, "docker"), system(t, "dockerd")
	if os.Geteuid() != 0 {
		leftOut(t, "dockerd runs as root only")
	}
	c := docker{program, home, ""}
	c.socket = c.daemon(t, daemon)
	return c
}

// daemon runs a dockerd that shares nothing with others and returns its address.
func (c docker) daemon(t *testing.T, program string) string {
	t.Helper()
	return c.daemonBy(t, []string{program})
}

// daemonBy runs a dockerd by a command line that takes its flags at the end, with more in its environment.
func (c docker) daemonBy(t *testing.T, line []string, more ...string) string {
	t.Helper()
	return c.daemonOf(t, "vfs", line, more...)
}

// daemonOf is daemonBy with a storage driver; Docker 29 chooses one itself.
func (c docker) daemonOf(t *testing.T, driver string, line []string, more ...string) string {
	t.Helper()
	dir := shortDir(t)
	socket := "unix://" + filepath.Join(dir, "d.sock")
	cmd := exec.Command(line[0], append(slices.Clone(line[1:]), "--bridge=none", "--iptables=false", "--ip6tables=false",
		"--config-file", writeFile(t, filepath.Join(dir, "daemon.json"), "{}", 0o600),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "-H", socket, "--pidfile", filepath.Join(dir, "pid"))...)
	if driver != "" {
		cmd.Args = append(cmd.Args, "--storage-driver="+driver)
	}
	cmd.Env = cleanEnv(c.home, more...)
	startDaemon(t, cmd, func() error {
		probe := exec.Command(c.program, "-H", socket, "version")
		probe.Env = cleanEnv(c.home)
		return probe.Run()
	})
	return socket
}

func (c docker) run(t *testing.T, socket string, args ...string) string {
	t.Helper()
	return command{env: cleanEnv(c.home, "DOCKER_HOST="+socket, "DOCKER_CLI_EXPERIMENTAL=enabled", "DOCKER_BUILDKIT=0")}.run(t, c.program, args...)
}

func (c docker) push(t *testing.T, tag, ref string) string {
	t.Helper()
	s := samples(t)
	if tag == "single" {
		c.load(t, s, s.single, ref)
		return c.pushLoaded(t, ref)
	}
	var index manifest
	readBlob(t, s, s.multi.Digest, &index)
	list := []string{"manifest", "create", "--insecure", ref}
	for _, image := range index.Manifests {
		one := ref + "-" + image.Platform.Architecture
		c.load(t, s, image, one)
		c.pushLoaded(t, one)
		list = append(list, one)
	}
	c.run(t, c.socket, list...)
	return lastLine(c.run(t, c.socket, "manifest", "push", "--insecure", ref))
}

// pushLoaded pushes a loaded image and returns the digest docker reports.
func (c docker) pushLoaded(t *testing.T, ref string) string {
	t.Helper()
	out := c.run(t, c.socket, "push", ref)
	_, rest, found := strings.Cut(out, "digest: ")
	if !found {
		t.Fatalf("docker push names no digest:\n%s", out)
	}
	return strings.Fields(rest)[0]
}

func (c docker) pull(t *testing.T, tag, ref string) {
	t.Helper()
	fresh := c.daemon(t, system(t, "dockerd"))
	c.run(t, fresh, "--config", filepath.Dir(authFile(t, ref)), "pull", "-q", ref)
	if tag == "single" { // of an index the platform of this machine is pulled; the whole was compared by digest before
		var m manifest
		s := samples(t)
		readBlob(t, s, s.single.Digest, &m)
		wantEqual(t, "the id of the pulled image", c.run(t, fresh, "image", "inspect", "--format={{.Id}}", ref), m.Config.Digest)
	}
}

// load brings an image of the samples into dockerd under a name, by way of the archive that `docker save` would write.
func (c docker) load(t *testing.T, s sample, image desc, name string) {
	t.Helper()
	var m manifest
	readBlob(t, s, image.Digest, &m)
	path := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	layers := []string{}
	for _, layer := range m.Layers {
		file, err := os.Open(s.blob(layer.Digest))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(plain)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		layers = append(layers, addToTar(t, w, strings.TrimPrefix(layer.Digest, "sha256:")+".tar", content))
	}
	config := addToTar(t, w, strings.TrimPrefix(m.Config.Digest, "sha256:")+".json", []byte(readFile(t, s.blob(m.Config.Digest))))
	list, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{name}, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	addToTar(t, w, "manifest.json", list)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c.run(t, c.socket, "load", "-q", "-i", path)
}

func addToTar(t *testing.T, w *tar.Writer, name string, content []byte) string {
	t.Helper()
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	return name
}

func (s sample) blob(digest string) string {
	return filepath.Join(s.dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

func readBlob(t *testing.T, s sample, digest string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(readFile(t, s.blob(digest))), v); err != nil {
		t.Fatal(err)
	}
}
