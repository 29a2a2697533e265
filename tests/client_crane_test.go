package tests

import (
	"os"
	"path/filepath"
	"testing"
)

// crane pushes an OCI layout that names exactly one manifest, and uses plain HTTP for localhost by itself.
type crane struct {
	program, home string
}

func newCrane(t *testing.T, home, _ string) client { return crane{tool(t, "crane"), home} }

func (c crane) push(t *testing.T, tag, ref string) string {
	t.Helper()
	command{env: cleanEnv(c.home)}.run(t, c.program, "push", "--insecure", layoutOfOne(t, tag), ref)
	return digestInSample(t, tag)
}

func (c crane) pull(t *testing.T, tag, ref string) {
	t.Helper()
	env := cleanEnv(c.home, "DOCKER_CONFIG="+filepath.Dir(authFile(t, ref)))
	dir := t.TempDir()
	command{env: env}.run(t, c.program, "pull", "--insecure", "--format=oci", ref, dir)
	wantEqual(t, "crane digest", command{env: env}.run(t, c.program, "digest", "--insecure", ref), digestInSample(t, tag))
}

// layoutOfOne is an OCI layout with one tag of the shared images and their blobs.
func layoutOfOne(t *testing.T, tag string) string {
	t.Helper()
	s := samples(t)
	l := &layout{t: t, dir: t.TempDir()}
	writeFile(t, filepath.Join(l.dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`, 0o644)
	if err := os.Symlink(filepath.Join(s.dir, "blobs"), filepath.Join(l.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	l.tag(tag, map[string]desc{"single": s.single, "multi": s.multi, "artifact": s.artifact}[tag])
	return l.dir
}
