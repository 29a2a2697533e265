package tests

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// aliceHelper is a credential helper that knows Alice's account.
const aliceHelper = "#!/bin/sh\ncat >/dev/null\ncat <<'END'\n" +
	`{"ServerURL":"` + upstreamName + `","Username":"alice","Secret":"alice's word"}` + "\nEND\n"

// canary is a secret that must never be seen outside.
const canary = "canary-0f3a77"

func TestACredentialIsFoundInEachPlaceThatHoldsOne(t *testing.T) {
	t.Parallel()
	alice := dockerConfig(upstreamName, parts.Alice())
	for _, c := range []struct {
		name string
		put  func(t *testing.T, r *rig)
	}{
		{"the docker config of the home directory", func(t *testing.T, r *rig) {
			r.config.Credentials = nil
			writeFile(t, filepath.Join(r.home, ".docker", "config.json"), alice, 0o600)
		}},
		{"the docker config named in the configuration", func(t *testing.T, r *rig) {
			r.config.Credentials.DockerConfig = writeFile(t, filepath.Join(r.home, "elsewhere", "config.json"), alice, 0o600)
		}},
		{"a helper of credHelpers", func(t *testing.T, r *rig) {
			withHelper(t, r, "good", aliceHelper, `{"credHelpers":{"`+upstreamName+`":"good"}}`)
		}},
		{"the helper of credsStore", func(t *testing.T, r *rig) {
			withHelper(t, r, "good", aliceHelper, `{"credsStore":"good"}`)
		}},
		{"podman's auth.json named in the configuration", func(t *testing.T, r *rig) {
			r.config.Credentials.PodmanAuth = writeFile(t, filepath.Join(r.home, "auth.json"), alice, 0o600)
		}},
		{"podman's auth.json in the runtime directory", func(t *testing.T, r *rig) {
			r.config.Credentials = nil
			writeFile(t, filepath.Join(r.home, "containers", "auth.json"), alice, 0o600) // XDG_RUNTIME_DIR is home
		}},
		{"DOCKER_AUTH_CONFIG", func(_ *testing.T, r *rig) { r.env = append(r.env, "DOCKER_AUTH_CONFIG="+alice) }},
		{"a reference to a file", func(t *testing.T, r *rig) {
			file := writeFile(t, filepath.Join(r.home, "password"), parts.Alice().Password+"\n", 0o600)
			r.config.Credentials.References = []parts.Reference{{For: upstreamName, Username: "alice", Password: "file:" + file}}
		}},
		{"a reference to the environment", func(_ *testing.T, r *rig) {
			r.env = append(r.env, "ALICE_PASSWORD="+parts.Alice().Password)
			r.config.Credentials.References = []parts.Reference{{For: upstreamName, Username: "alice", Password: "env:ALICE_PASSWORD"}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pushproxyProgram(t, buildRace)
			reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
			r := startRig(t, reg.URL, func(r *rig) {
				writeFile(t, r.config.Credentials.DockerConfig, "{}", 0o600)
				c.put(t, r)
			})
			digest := pushSmall(t, r.api(), killRepo)
			wantEqual(t, "the upstream's digest", upstreamAPI(reg).pull(t, "acme/app", "1"), digest)
		})
	}
}

// withHelper installs a credential helper on the program's path and a docker config that names it.
func withHelper(t *testing.T, r *rig, name, script, config string) {
	t.Helper()
	bin := mkdir(t, filepath.Join(r.home, "bin"))
	if script != "" {
		writeFile(t, filepath.Join(bin, "docker-credential-"+name), script, 0o700)
	}
	for i, v := range r.env {
		if rest, found := strings.CutPrefix(v, "PATH="); found {
			r.env[i] = "PATH=" + bin + ":" + rest
		}
	}
	writeFile(t, r.config.Credentials.DockerConfig, config, 0o600)
}

func TestS14S15AHelperThatMisbehavesIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script string }{
		{"fails and prints the secret", "#!/bin/sh\ncat >/dev/null\necho " + canary + "\necho " + canary + " >&2\nexit 1\n"},
		{"hangs", "#!/bin/sh\nexec sleep 600\n"},
		{"hangs in a child that keeps its output open", "#!/bin/sh\nsleep 600 &\nexit 0\n"},
		{"prints without end", "#!/bin/sh\ncat >/dev/null\nyes " + canary + "\n"},
		{"is not installed", ""},
		{"speaks no JSON", "#!/bin/sh\ncat >/dev/null\necho hello " + canary + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pushproxyProgram(t, buildRace)
			reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
			rec := startRecorder(t, reg.URL, nil)
			r := startRig(t, rec.URL, func(r *rig) {
				withHelper(t, r, "bad", c.script, `{"credHelpers":{"`+upstreamName+`":"bad"}}`)
				// A credential that would work, in a place that is asked later: a failing helper is no reason to use it.
				r.config.Credentials.PodmanAuth = writeFile(t, filepath.Join(r.home, "auth.json"), dockerConfig(upstreamName, parts.Alice()), 0o600)
			})
			begin := time.Now()
			got, pushed := tryPush(t, r.api(), killRepo)
			if pushed {
				t.Fatal("a push without a credential was taken")
			}
			if took := time.Since(begin); took > 45*time.Second {
				t.Errorf("the answer took %s", took)
			}
			if _, message := got.registryError(); !strings.Contains(message, "docker-credential-bad") || !strings.Contains(message, upstreamName) {
				t.Errorf("the answer does not name helper and upstream: %v", got)
			}
			for _, s := range rec.requests() {
				if s.Authorized {
					t.Errorf("a credential went out: %s", s)
				}
			}
			if strings.Contains(string(got.body)+r.Output(), canary) {
				t.Error("what the helper printed was shown")
			}
		})
	}
}

func TestTwoAccountsOfOneHostStayApartInOnePush(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	p := traced{startRig(t, rec.URL, func(r *rig) {
		writeFile(t, r.config.Credentials.DockerConfig, dockerConfigOf(map[string]parts.User{
			upstreamName + "/acme": parts.Alice(), upstreamName + "/other": parts.Bob(),
		}), 0o600)
	}), rec, reg}
	img := newImage(t, 40, 41)
	for _, repo := range []string{"acme/app", "acme/second", "other/app", "other/second"} {
		cranePush(t, img, p.ref(repo, "v1"))
		got := p.rec.reset()
		user := map[bool]string{true: "alice", false: "bob"}[strings.HasPrefix(repo, "acme/")]
		for _, s := range got {
			if s.Authorized && s.User != user {
				t.Errorf("%s is %s's, and yet %s came from %s", repo, user, s, s.User)
			}
		}
		for _, s := range got.mounts() {
			if from := map[string]string{"alice": "acme/app", "bob": "other/app"}[user]; !s.has("from", from) {
				t.Errorf("%s asks for another account's repository", s)
			}
		}
		if second := strings.HasSuffix(repo, "/second"); second != (len(got.bodies()) == 0) {
			t.Errorf("push to %s: mounts within an account, and bytes for a new one, were expected:\n%s", repo, got)
		}
		wantEqual(t, "the upstream's digest", upstreamAPI(reg).pull(t, repo, "v1"), img.digest)
	}
}

func TestATokenThatEndsDuringAnUploadIsReplaced(t *testing.T) {
	t.Parallel()
	const life = 2 * time.Second
	p, server := tokenRig(t, life, "")
	p.rec.setRule(holdFirstBody(life + time.Second))
	digest := pushSmall(t, p.api(), killRepo)
	refused := p.rec.requests().where(func(s seen) bool { return s.Status == 401 && uploadPath.MatchString(s.Path) && s.Method != "POST" })
	if len(refused) == 0 {
		t.Errorf("no token ended during an upload, so nothing was shown:\n%s", p.rec)
	}
	if n := len(server.requests()); n < 2 {
		t.Errorf("%d tokens were asked for", n)
	}
	wantTokenPull(t, p, server, digest)
}
