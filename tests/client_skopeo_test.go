package tests

import (
	"path/filepath"
	"testing"
)

// skopeo does not treat localhost as special: plain HTTP needs --dest-tls-verify=false.
type skopeo struct {
	program, home string
}

func newSkopeo(t *testing.T, home, _ string) client { return skopeo{system(t, "skopeo"), home} }

func (c skopeo) push(t *testing.T, tag, ref string) string {
	t.Helper()
	digestFile := filepath.Join(t.TempDir(), "digest")
	command{env: cleanEnv(c.home)}.run(t, c.program, "--insecure-policy", "copy", "--all", "--preserve-digests",
		"--dest-tls-verify=false", "--digestfile", digestFile, sampleRef(t, tag), "docker://"+ref)
	wantEqual(t, "skopeo's digest file", readFile(t, digestFile), digestInSample(t, tag))
	return digestInSample(t, tag)
}

func (c skopeo) pull(t *testing.T, tag, ref string) {
	t.Helper()
	digestFile := filepath.Join(t.TempDir(), "digest")
	command{env: cleanEnv(c.home)}.run(t, c.program, "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false",
		"--src-authfile", authFile(t, ref), "--digestfile", digestFile, "docker://"+ref, "oci:"+t.TempDir()+":pulled")
	wantEqual(t, "the digest of what skopeo pulled", readFile(t, digestFile), digestInSample(t, tag))
}
