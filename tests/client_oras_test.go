package tests

import "testing"

// oras chooses plain HTTP by itself for the name localhost only.
type oras struct {
	program, home string
}

func newOras(t *testing.T, home, _ string) client { return oras{tool(t, "oras"), home} }

func (c oras) push(t *testing.T, tag, ref string) string {
	t.Helper()
	command{env: cleanEnv(c.home)}.run(t, c.program, "cp", "--no-tty", "--from-oci-layout", samples(t).dir+":"+tag, ref)
	return digestInSample(t, tag)
}

func (c oras) pull(t *testing.T, tag, ref string) {
	t.Helper()
	dir := t.TempDir()
	env := command{env: cleanEnv(c.home)}
	env.run(t, c.program, "cp", "--no-tty", "--from-plain-http", "--from-registry-config", authFile(t, ref), "--to-oci-layout", ref, dir+":pulled")
	wantEqual(t, "oras resolve", env.run(t, c.program, "resolve", "--oci-layout", dir+":pulled"), digestInSample(t, tag))
}
