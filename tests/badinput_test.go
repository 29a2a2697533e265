package tests

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// badStart is a configuration, or a machine, that serve must refuse.
type badStart struct {
	name   string
	change func(t *testing.T, r *rig) (words []string) // words that the message must have
}

func badStarts() []badStart {
	return []badStart{
		{"an unknown key", func(t *testing.T, r *rig) []string {
			return r.raw(t, `{"litsen": ["127.0.0.1:5001"]}`, "litsen")
		}},
		{"an unknown key inside an upstream", func(t *testing.T, r *rig) []string {
			return r.raw(t, `{"upstreams": [{"host": "registry.test", "ulr": "http://127.0.0.1:1"}]}`, "ulr")
		}},
		{"a value that is none of the choices", func(t *testing.T, r *rig) []string {
			return r.raw(t, `{"storage": "floppy"}`, "storage", "floppy", "badger")
		}},
		{"an address that is none", func(t *testing.T, r *rig) []string {
			return r.raw(t, `{"listen": ["127.0.0.1"]}`, "listen", "127.0.0.1")
		}},
		{"an upstream URL that is none", func(t *testing.T, r *rig) []string {
			return r.raw(t, `{"upstreams": [{"host": "registry.test", "url": "ftp://registry.test"}]}`, "ftp://registry.test")
		}},
		{"a file that is not YAML", func(t *testing.T, r *rig) []string { return r.raw(t, "listen: [", "pushproxy.yaml") }},
		{"a listener that others can reach", func(t *testing.T, r *rig) []string {
			r.config.Listen = []string{fmt.Sprintf("0.0.0.0:%d", r.Port)}
			return r.written(t, "0.0.0.0")
		}},
		{"a busy port", func(t *testing.T, r *rig) []string {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.Port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			return []string{fmt.Sprint(r.Port), "in use", "listen"}
		}},
		{"a data directory that is a file", func(t *testing.T, r *rig) []string {
			r.config.DataDir = writeFile(t, filepath.Join(r.home, "taken"), "", 0o600)
			return r.written(t, r.config.DataDir)
		}},
		{"a data directory that another pushproxy uses", func(t *testing.T, r *rig) []string {
			other := startRig(t, "http://127.0.0.1:1", nil)
			r.config.DataDir = other.config.DataDir
			return r.written(t, r.config.DataDir, "another")
		}},
	}
}

func TestABadStartNamesTheThingAndTheRemedy(t *testing.T) {
	t.Parallel()
	for _, c := range badStarts() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := prepare(t, "http://127.0.0.1:1", nil)
			words := c.change(t, r)
			stdout, stderr, err := r.run(t, "serve")
			if err == nil {
				t.Fatalf("serve began, and ended without an error:\n%s\n%s", stdout, stderr)
			}
			for _, word := range words {
				if !strings.Contains(stderr, word) {
					t.Errorf("the message does not say %q:\n%s", word, lastLines(stderr, 10))
				}
			}
			if strings.Contains(stderr, "goroutine ") {
				t.Errorf("the message is a stack trace:\n%s", lastLines(stderr, 30))
			}
		})
	}
}

// raw replaces the configuration file.
func (r *rig) raw(t *testing.T, content string, words ...string) []string {
	t.Helper()
	writeFile(t, r.file, content, 0o600)
	return words
}

// written writes the changed configuration.
func (r *rig) written(t *testing.T, words ...string) []string {
	t.Helper()
	if err := r.config.Write(r.file); err != nil {
		t.Fatal(err)
	}
	return words
}

func TestConfigCheckFindsWhatServeWouldRefuse(t *testing.T) {
	t.Parallel()
	r := prepare(t, "http://127.0.0.1:1", nil)
	if _, stderr, err := r.run(t, "config", "check"); err != nil {
		t.Errorf("a good configuration is refused: %v\n%s", err, stderr)
	}
	r.raw(t, `{"litsen": []}`)
	if _, stderr, err := r.run(t, "config", "check"); err == nil || !strings.Contains(stderr, "litsen") {
		t.Errorf("an unknown key passes: %v\n%s", err, stderr)
	}
}

func TestABadRequestGetsTheSpecificationsError(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	a := p.api()
	base := "/v2/" + killRepo
	unknown := digestOf([]byte("never seen"))
	for _, c := range []struct {
		name   string
		send   func(t *testing.T) answer
		status int
		code   string
	}{
		{"bytes that do not match the digest", func(t *testing.T) answer {
			return a.do(t, "PUT", withDigest(a.begin(t, killRepo), unknown), []byte("other bytes"))
		}, 400, "DIGEST_INVALID"},
		{"a digest that is none", func(t *testing.T) answer {
			return a.do(t, "PUT", withDigest(a.begin(t, killRepo), "sha256:12"), []byte("bytes"))
		}, 400, "DIGEST_INVALID"},
		{"a chunk out of order", func(t *testing.T) answer {
			return a.do(t, "PATCH", a.begin(t, killRepo), []byte("0123"), "Content-Range", "7-10", "Content-Type", "application/octet-stream")
		}, 416, "BLOB_UPLOAD_INVALID"},
		{"a manifest of more than 4 MiB", func(t *testing.T) answer {
			return a.do(t, "PUT", base+"/manifests/big", make([]byte, 5<<20), "Content-Type", typeManifest)
		}, 413, "MANIFEST_INVALID"},
		{"a manifest that is no JSON", func(t *testing.T) answer {
			return a.do(t, "PUT", base+"/manifests/bad", []byte("hello"), "Content-Type", typeManifest)
		}, 400, "MANIFEST_INVALID"},
		{"a manifest over a blob that nobody has", func(t *testing.T) answer {
			config := a.pushBlob(t, killRepo, []byte("{}"))
			return a.do(t, "PUT", base+"/manifests/gone", artifactOf(t, config, desc{MediaType: "text/plain", Digest: unknown, Size: 10}), "Content-Type", typeManifest)
		}, 404, "MANIFEST_BLOB_UNKNOWN"},
		{"a blob that nobody has", func(t *testing.T) answer { return a.do(t, "GET", base+"/blobs/"+unknown, nil) }, 404, "BLOB_UNKNOWN"},
		{"a tag that nobody has", func(t *testing.T) answer { return a.do(t, "GET", base+"/manifests/none", nil) }, 404, "MANIFEST_UNKNOWN"},
		{"a session that nobody opened", func(t *testing.T) answer {
			return a.do(t, "PATCH", base+"/blobs/uploads/0123456789abcdef0123456789abcdef", []byte("x"))
		}, 404, "BLOB_UPLOAD_UNKNOWN"},
		{"a repository name in capitals", func(t *testing.T) answer { return a.do(t, "POST", "/v2/"+upstreamName+"/Acme/blobs/uploads/", nil) }, 400, "NAME_INVALID"},
		{"an upstream that is not in the list", func(t *testing.T) answer {
			return a.do(t, "POST", "/v2/unknown.test/acme/app/blobs/uploads/", nil)
		}, 404, "NAME_UNKNOWN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := c.send(t)
			if got.StatusCode != c.status || got.errorCode() != c.code {
				t.Errorf("got %d %s (%v), want %d %s", got.StatusCode, got.errorCode(), got, c.status, c.code)
			}
		})
	}
}

func TestAnUnknownUpstreamIsToldWhichThereAre(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	got := r.api().do(t, "POST", "/v2/unknown.test/acme/app/blobs/uploads/", nil)
	if _, message := got.registryError(); !strings.Contains(message, upstreamName) {
		t.Errorf("the message does not list the routes: %v", got)
	}
}

func TestARefusedCredentialIsExplainedToTheClient(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r := startRig(t, reg.URL, func(r *rig) {
		writeFile(t, r.config.Credentials.DockerConfig, dockerConfig(upstreamName, parts.User{Name: "alice", Password: canary}), 0o600)
	})
	got, pushed := tryPush(t, r.api(), killRepo)
	if pushed || got.StatusCode != http.StatusForbidden || got.errorCode() != "DENIED" {
		t.Fatalf("a wrong password is answered %v", got)
	}
	_, message := got.registryError()
	for _, word := range []string{upstreamName, "login"} {
		if !strings.Contains(message, word) {
			t.Errorf("the message does not say %q: %s", word, message)
		}
	}
	if strings.Contains(string(got.body)+r.Output(), canary) {
		t.Error("the password was shown")
	}
}

func TestAnUpstreamThatIsDownIsNamed(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	begin := time.Now()
	got, pushed := tryPush(t, r.api(), killRepo)
	if pushed || got.StatusCode < 500 || !strings.Contains(string(got.body), upstreamName) {
		t.Errorf("a push to nowhere is answered %v", got)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("the answer took %s", took)
	}
}

func TestADockerConfigThatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) { writeFile(t, r.config.Credentials.DockerConfig, "{not json", 0o600) })
	got, pushed := tryPush(t, r.api(), killRepo)
	if pushed || !strings.Contains(string(got.body), "config.json") {
		t.Errorf("a docker config that is no JSON is answered %v", got)
	}
}

func TestALoginWithATokenOfAnotherPushproxyIsRefused(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	file := r.config.Credentials.DockerConfig
	before := readFile(t, file)
	_, stderr, err := r.run(t, "login", "--data-dir", filepath.Join(r.home, "other"))
	if err == nil || !strings.Contains(stderr, "it is another one") || readFile(t, file) != before {
		t.Errorf("%v\n%s\n%s", err, stderr, readFile(t, file))
	}
	if _, stderr, err := r.run(t, "login"); err != nil {
		t.Errorf("its own token: %v\n%s", err, stderr)
	}
}
