package tests

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// Every kind of real upstream takes a push through pushproxy from a client that knows nothing of it.

func TestAPushThroughReachesEveryKindOfUpstream(t *testing.T) {
	t.Parallel()
	t.Run("an open registry", func(t *testing.T) {
		t.Parallel()
		pushproxyProgram(t, buildRace)
		reg := startRegistry(t, parts.RegistryConfig{})
		r := startRig(t, reg.URL, func(r *rig) { r.config.Credentials.DockerConfig = emptyDockerConfig(t) })
		digest := pushSmall(t, r.api(), killRepo)
		wantEqual(t, "the upstream's digest", api{url: reg.URL}.pull(t, "acme/app", "1"), digest)
	})
	t.Run("olareg", func(t *testing.T) {
		t.Parallel()
		pushproxyProgram(t, buildRace)
		reg := startOlareg(t)
		r := startRig(t, reg.URL, func(r *rig) { r.config.Credentials.DockerConfig = emptyDockerConfig(t) })
		digest := pushSmall(t, r.api(), killRepo)
		wantEqual(t, "the upstream's digest", api{url: reg.URL}.pull(t, "acme/app", "1"), digest)
	})
	t.Run("a registry with passwords", func(t *testing.T) {
		t.Parallel()
		pushproxyProgram(t, buildRace)
		reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
		digest := pushSmall(t, startRig(t, reg.URL, nil).api(), killRepo)
		wantEqual(t, "the upstream's digest", upstreamAPI(reg).pull(t, "acme/app", "1"), digest)
	})
	t.Run("a registry under a private certificate authority", func(t *testing.T) {
		t.Parallel()
		pushproxyProgram(t, buildRace)
		ca := newAuthority(t)
		reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true, CertFile: ca.certFile, KeyFile: ca.keyFile})
		r := startRig(t, reg.URL, func(r *rig) { r.config.Upstreams[0].CAFile = ca.caFile })
		digest := pushSmall(t, r.api(), killRepo)
		direct := api{url: reg.URL, user: parts.Alice(), client: ca.client()}
		wantEqual(t, "the upstream's digest", direct.pull(t, "acme/app", "1"), digest)
	})
}

func TestS18AnUpstreamOfAnUnknownAuthorityGetsNoCredential(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	ca := newAuthority(t)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true, CertFile: ca.certFile, KeyFile: ca.keyFile})
	r := startRig(t, reg.URL, nil)
	got, pushed := tryPush(t, r.api(), killRepo)
	if pushed {
		t.Fatal("an upstream whose certificate nobody vouches for took a push")
	}
	if code, message := got.registryError(); !strings.Contains(message, upstreamName) || !strings.Contains(message, "certificate") {
		t.Errorf("answered %d %s: %s", got.StatusCode, code, message)
	}
}

// tokenRig is pushproxy before a registry that wants Bearer tokens.
func tokenRig(t *testing.T, life time.Duration, config string) (traced, *tokenServer) {
	t.Helper()
	pushproxyProgram(t, buildRace)
	server := startTokenServer(t, life, func(user, repo, _ string) bool { return user == "alice" && strings.HasPrefix(repo, "acme/") })
	reg := startRegistry(t, parts.RegistryConfig{Token: &server.Config})
	rec := startRecorder(t, reg.URL, nil)
	realm, err := url.Parse(server.Config.Realm)
	if err != nil {
		t.Fatal(err)
	}
	r := startRig(t, rec.URL, func(r *rig) {
		r.config.Upstreams[0].TrustedRealms = []string{realm.Host}
		if config != "" {
			writeFile(t, r.config.Credentials.DockerConfig, config, 0o600)
		}
	})
	return traced{r, rec, reg}, server
}

// wantTokenPull reads an image from the upstream by a token of its own.
func wantTokenPull(t *testing.T, p traced, s *tokenServer, digest string) {
	t.Helper()
	token := fetchToken(t, s, "repository:acme/app:pull")
	for _, path := range []string{"/manifests/1", "/manifests/" + digest} {
		got := api{url: p.reg.URL}.want(t, 200, "GET", "/v2/acme/app"+path, nil, "Authorization", "Bearer "+token, "Accept", typeManifest)
		wantEqual(t, "the upstream's digest", digestOf(got.body), digest)
	}
}

func TestBearerTokens(t *testing.T) {
	t.Parallel()
	identity := `{"auths":{"` + upstreamName + `":{"auth":"PHRva2VuPjo=","identitytoken":"` + refreshToken + `"}}}`
	for _, c := range []struct{ name, config, method string }{
		{"are fetched by GET with a password", "", "GET"},
		{"are fetched by OAuth2 POST with an identity token", identity, "POST"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, server := tokenRig(t, 5*time.Second, c.config)
			digest := pushSmall(t, p.api(), killRepo)
			asked := server.requests()
			if !slices.ContainsFunc(asked, func(r tokenRequest) bool { return r.Method == c.method && r.Status == 200 && len(r.Granted) > 0 }) {
				t.Errorf("no token was granted by %s: %+v", c.method, asked)
			}
			for _, r := range asked {
				for _, scope := range r.Scopes {
					if !strings.HasPrefix(scope, "repository:acme/app:") {
						t.Errorf("a token was asked for %s, which no request needs", scope)
					}
				}
			}
			wantTokenPull(t, p, server, digest)
		})
	}
}

func emptyDockerConfig(t *testing.T) string {
	t.Helper()
	return writeFile(t, t.TempDir()+"/config.json", "{}", 0o600)
}

// tryPush pushes an artifact that may be refused, and returns the answer that refused it.
func tryPush(t *testing.T, a api, repo string) (refusal answer, pushed bool) {
	t.Helper()
	config, blob := []byte("{}"), []byte("hello from "+t.Name())
	var d []desc
	for _, content := range [][]byte{config, blob} {
		start := a.do(t, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
		if start.StatusCode != 202 {
			return start, false
		}
		put := a.do(t, "PUT", withDigest(start.Header.Get("Location"), digestOf(content)), content, "Content-Type", "application/octet-stream")
		if put.StatusCode != 201 {
			return put, false
		}
		d = append(d, desc{MediaType: "application/octet-stream", Digest: digestOf(content), Size: int64(len(content))})
	}
	stored := a.do(t, "PUT", "/v2/"+repo+"/manifests/1", artifactOf(t, d[0], d[1]), "Content-Type", typeManifest)
	return stored, stored.StatusCode == 201
}
