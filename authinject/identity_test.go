package authinject

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestIdentityTokensAreExchangedByPost(t *testing.T) {
	t.Parallel()
	identity := Credential{Identity: canary, Source: "docker config x"}
	withPassword := Credential{Username: "bob", Password: canary, Identity: canary, Source: "docker config x"}
	for name, c := range map[string]struct {
		cred Credential
		post int
		want int
	}{
		"where the server takes it":                             {identity, 0, 201},
		"with a password at hand too":                           {withPassword, 0, 201},
		"falling back to GET where it answers 400":              {withPassword, 400, 201},
		"falling back to GET where it answers 401":              {withPassword, 401, 201},
		"falling back to GET where it answers 404":              {withPassword, 404, 201},
		"falling back to GET where it answers 405":              {withPassword, 405, 201},
		"not falling back where it forbids":                     {withPassword, 403, 0},
		"not falling back to an anonymous token, unlike others": {identity, 404, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &registry{identity: canary, noPost: c.post, anonymous: true}
			tr, w := newTransport(r, fixed{"": c.cred})
			got, err := send(t, tr, "GET", manifest, "")
			if got != c.want || (err == nil) != (c.want != 0) {
				t.Errorf("got %d and error %v, want %d", got, err, c.want)
			}
			for _, s := range w.requests() {
				if strings.HasPrefix(s.line, "GET /token") && c.post == 0 {
					t.Error("GET was used where POST works")
				}
				if strings.Contains(s.line, canary) || leaks(fmt.Sprint(err)) {
					t.Error("the identity token is in an address or an error")
				}
			}
		})
	}
}

func TestS10AReplacedRefreshTokenIsUsedAndBoundToItsRealm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{realm: "https://auth.registry.test/a"}
		tr, w := newTransport(r, fixed{"": {Identity: "first", Source: "docker config x"}})
		var used []string
		w.hosts["https://auth.registry.test:443"] = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			given := req.PostFormValue("refresh_token")
			used = append(used, req.URL.Path+" "+given)
			if given == "spent" {
				rw.WriteHeader(401)
				return
			}
			next := map[string]string{"first": "second", "second": "spent"}[given]
			_, _ = fmt.Fprintf(rw, `{"access_token":"t%d","refresh_token":%q}`, len(used), next)
		})
		for range 3 {
			_, _ = send(t, tr, "GET", manifest, "")
			time.Sleep(time.Minute)
		}
		r.realm = "https://auth.registry.test/b"
		tr.forget(homeAt)
		_, _ = send(t, tr, "GET", manifest, "")
		seen := strings.Join(used, ",")
		if !strings.HasPrefix(seen, "/a first,/a second,/a spent,/a first") {
			t.Errorf("got %s, want each replacement used once, and the first again when one is spent", seen)
		}
		if i := strings.Index(seen, "/b "); i < 0 || !strings.HasPrefix(seen[i:], "/b first") {
			t.Errorf("got %s, want the second realm to see the credential's own token first", seen)
		}
	})
}
