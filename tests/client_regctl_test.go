package tests

import (
	"path/filepath"
	"strings"
	"testing"
)

// regctl wants TLS everywhere, localhost too, until told otherwise for the host.
type regctl struct {
	program, home string
}

func newRegctl(t *testing.T, home, host string) client {
	c := regctl{tool(t, "regctl"), home}
	c.plain(t, host)
	return c
}

func (c regctl) plain(t *testing.T, host string) {
	t.Helper()
	command{env: cleanEnv(c.home)}.run(t, c.program, "registry", "set", "--skip-check", "--tls", "disabled", host)
}

func (c regctl) push(t *testing.T, tag, ref string) string {
	t.Helper()
	command{env: cleanEnv(c.home)}.run(t, c.program, "image", "copy", "ocidir://"+samples(t).dir+":"+tag, ref)
	return digestInSample(t, tag)
}

func (c regctl) pull(t *testing.T, tag, ref string) {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	c.plain(t, host)
	env := command{env: cleanEnv(c.home, "DOCKER_CONFIG="+filepath.Dir(authFile(t, ref)))}
	dir := "ocidir://" + filepath.Join(t.TempDir(), "pulled") + ":" + tag
	env.run(t, c.program, "image", "copy", ref, dir)
	wantEqual(t, "regctl digest", env.run(t, c.program, "image", "digest", dir), digestInSample(t, tag))
}
