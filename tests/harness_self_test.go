package tests

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// The tests of this file try the instruments themselves on real registries, so that a failure elsewhere is not theirs.

func TestRegistriesAskForWhatTheyWereStartedWith(t *testing.T) {
	t.Parallel()
	t.Run("an open registry takes a push from anybody", func(t *testing.T) {
		t.Parallel()
		pushSmall(t, api{url: startRegistry(t, parts.RegistryConfig{}).URL}, "open/app")
	})
	t.Run("olareg takes a push from anybody", func(t *testing.T) {
		t.Parallel()
		pushSmall(t, api{url: startOlareg(t).URL}, "open/app")
	})
	t.Run("a registry with passwords takes one from Alice only", func(t *testing.T) {
		t.Parallel()
		reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
		api{url: reg.URL}.want(t, http.StatusUnauthorized, "POST", "/v2/app/blobs/uploads/", nil)
		pushSmall(t, upstreamAPI(reg), "acme/app")
	})
	t.Run("a registry under a private authority is unknown to others", func(t *testing.T) {
		t.Parallel()
		ca := newAuthority(t)
		reg := startRegistry(t, parts.RegistryConfig{CertFile: ca.certFile, KeyFile: ca.keyFile})
		if _, err := (api{url: reg.URL}).send("GET", "/v2/", nil); err == nil {
			t.Error("a client that does not know the private authority was served")
		}
		pushSmall(t, api{url: reg.URL, client: ca.client()}, "acme/app")
	})
}

func TestTokensAreHonouredForTheirScopeAndTime(t *testing.T) {
	t.Parallel()
	server := startTokenServer(t, 2*time.Second, func(user, repo, _ string) bool {
		return user == "alice" && strings.HasPrefix(repo, "acme/")
	})
	reg := startRegistry(t, parts.RegistryConfig{Token: &server.Config})
	anonymous := api{url: reg.URL}
	challenge := anonymous.want(t, http.StatusUnauthorized, "POST", "/v2/acme/app/blobs/uploads/", nil).Header.Get("WWW-Authenticate")
	if !strings.Contains(challenge, server.Config.Realm) {
		t.Fatalf("the challenge %q does not name the token server", challenge)
	}
	token := fetchToken(t, server, "repository:acme/app:push,pull")
	post := func() int {
		return anonymous.do(t, "POST", "/v2/acme/app/blobs/uploads/", nil, "Authorization", "Bearer "+token).StatusCode
	}
	if got := post(); got != http.StatusAccepted {
		t.Fatalf("a fresh token with the scope is answered %d", got)
	}
	other := fetchToken(t, server, "repository:other/app:push,pull")
	if got := anonymous.do(t, "POST", "/v2/other/app/blobs/uploads/", nil, "Authorization", "Bearer "+other).StatusCode; got != http.StatusUnauthorized {
		t.Errorf("a token without the scope is answered %d", got)
	}
	poll(t, "the token to end", func() bool { return post() == http.StatusUnauthorized })
}

func TestTheRecorderSeesWhatAPushSends(t *testing.T) {
	t.Parallel()
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	pushSmall(t, api{url: rec.URL, user: parts.Alice()}, "acme/app")
	got := rec.reset()
	if len(got.uploadsStarted()) != 2 || len(got.bodies()) != 2 || len(got.manifestPuts()) != 1 || len(got.mounts()) != 0 {
		t.Errorf("a push of two blobs and a manifest was recorded as\n%s", got)
	}
	for _, s := range got.writes() {
		if s.User != "alice" || s.Status/100 != 2 {
			t.Errorf("%s by %q", s, s.User)
		}
	}
	rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusTeapot)
		return true
	})
	if got := (api{url: rec.URL}).do(t, "GET", "/v2/", nil).StatusCode; got != http.StatusTeapot {
		t.Errorf("a rule that answers was not asked: %d", got)
	}
}

// pushSmall pushes an artifact of two blobs and reads it back.
func pushSmall(t *testing.T, a api, repo string) string {
	t.Helper()
	content := artifactOf(t, a.pushBlob(t, repo, []byte("{}")), a.pushBlob(t, repo, []byte("hello from "+t.Name())))
	a.pushManifest(t, repo, "1", content)
	if got := a.pull(t, repo, "1"); got != digestOf(content) {
		t.Fatalf("pushed %s, pulled %s", digestOf(content), got)
	}
	return digestOf(content)
}

func fetchToken(t *testing.T, s *tokenServer, scope string) string {
	t.Helper()
	a := api{user: parts.Alice()}
	got := a.want(t, http.StatusOK, "GET", s.Config.Realm+"?service="+s.Config.Service+"&scope="+scope, nil)
	_, rest, _ := strings.Cut(string(got.body), `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}
