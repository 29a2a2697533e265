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
)

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

// isAs fails unless everything is as it was when tree said before.
func (r *setupRig) isAs(t *testing.T, before string) {
	t.Helper()
	if got := tree(t, r.root); got != before {
		t.Errorf("left\n%s\nwant\n%s", got, before)
	}
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
