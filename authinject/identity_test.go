package authinject

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
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

func TestWhatAnIdentityTokenIsExchangedWith(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ challenge, want string }{
		"a service that is named": {`Bearer realm="https://registry.test/token",service="s p"`, "client_id=pushproxy&grant_type=refresh_token&refresh_token=" + canary + "&scope=repository%3Aacme%2Fapp%3Apull&service=s+p"},
		"one that is not":         {`Bearer realm="https://registry.test/token"`, "client_id=pushproxy&grant_type=refresh_token&refresh_token=" + canary + "&scope=repository%3Aacme%2Fapp%3Apull"},
	} {
		tr, w := newTransport(&registry{identity: canary, challenge: test.challenge}, fixed{"": {Identity: canary}})
		mustSend(t, tr, 201, "GET", manifest, "")
		if got := w.requests()[1]; got.body != test.want || got.auth != "" {
			t.Errorf("%s: %s with %q", name, got.line, got.body)
		}
		tr, w = newTransport(&registry{challenge: test.challenge}, fixed{"": bob})
		mustSend(t, tr, 201, "GET", manifest, "")
		if got := w.requests()[1]; strings.Contains(got.line, "service=") != strings.Contains(test.challenge, "service=") {
			t.Errorf("%s: %s", name, got.line)
		}
	}
}

func TestAReplacedRefreshTokenStaysUntilItIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, w := newTransport(&registry{realm: "https://auth.registry.test/a"}, fixed{"": {Identity: "first"}})
		var used []string
		spent := false
		w.hosts["https://auth.registry.test:443"] = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			given := req.PostFormValue("refresh_token")
			used = append(used, given)
			switch {
			case given == "" || given == "second" && spent:
				rw.WriteHeader(401)
			case given == "first" && !spent:
				_, _ = fmt.Fprintf(rw, `{"access_token":"t%d","refresh_token":"second"}`, len(used))
			default:
				_, _ = fmt.Fprintf(rw, `{"access_token":"t%d"}`, len(used))
			}
		})
		for i := range 5 {
			spent = i > 2
			if err := tr.Warm(t.Context(), oci.Repo{Name: "acme/app"}, false); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
		}
		if got, want := strings.Join(used, " "), "first second second second first first"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
