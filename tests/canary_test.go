package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"pushproxy/tests/parts"
)

// trap is a server that a hostile upstream points to. It writes down who came, and who brought a credential.
type trap struct {
	URL string

	mu       sync.Mutex
	visits   []string
	carrying []string
}

func startTrap(t *testing.T) *trap {
	t.Helper()
	tr := &trap{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		line := r.Method + " " + r.URL.String()
		tr.mu.Lock()
		tr.visits = append(tr.visits, line)
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" || strings.Contains(r.Form.Encode(), url.QueryEscape(parts.Alice().Password)) {
			tr.carrying = append(tr.carrying, line)
		}
		tr.mu.Unlock()
		if r.Header.Get("Authorization") == "" && strings.HasPrefix(r.URL.Path, "/v2/") {
			// It asks for what it wants: a client may bring nothing unasked, and still obey a challenge.
			w.Header().Set("WWW-Authenticate", `Basic realm="registry.test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"token":"given-by-the-trap","access_token":"given-by-the-trap"}`)
	}))
	t.Cleanup(server.Close)
	tr.URL = server.URL
	return tr
}

func (tr *trap) seen() (visits, carrying []string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.visits), slices.Clone(tr.carrying)
}

func (tr *trap) port(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(tr.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestS10NoCredentialGoesToAHostileRealm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, realm string }{
		{"at another port of the same address", "http://127.0.0.1:PORT/token"},
		{"under the name localhost", "http://localhost:PORT/token"},
		{"in a short form of the loopback address", "http://127.1:PORT/token"},
		{"at the unspecified address", "http://[::]:PORT/token"},
		{"with the upstream as user name", "http://UPSTREAM@127.0.0.1:PORT/token"},
		{"with a trailing dot", "http://localhost.:PORT/token"},
		{"at the metadata service of clouds", "http://169.254.169.254/token"},
		{"by another scheme", "file:///etc/passwd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pushproxyProgram(t, buildRace)
			tr := startTrap(t)
			hostile := httptest.NewUnstartedServer(nil)
			realm := strings.NewReplacer("PORT", tr.port(t), "UPSTREAM", hostile.Listener.Addr().String()).Replace(c.realm)
			hostile.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry.test",scope="repository:acme/app:pull,push"`, realm))
				w.WriteHeader(http.StatusUnauthorized)
			})
			hostile.Start()
			t.Cleanup(hostile.Close)
			r := startRig(t, hostile.URL, nil)
			got, pushed := tryPush(t, r.api(), killRepo)
			if pushed {
				t.Error("a registry that takes nothing took a push")
			}
			if _, message := got.registryError(); !strings.Contains(message, upstreamName) {
				t.Errorf("the answer does not name the upstream: %v", got)
			}
			if visits, _ := tr.seen(); len(visits) > 0 {
				t.Errorf("the hostile realm was visited: %v", visits)
			}
		})
	}
}

func TestS11NoCredentialFollowsARedirect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		rule func(to string) func(http.ResponseWriter, *http.Request) bool
		read bool // shown by a pull, not by a push
	}{
		{"of a blob that is read", redirect(http.StatusTemporaryRedirect, "GET", "/blobs/sha256:"), true},
		{"of a manifest that is read", redirect(http.StatusTemporaryRedirect, "GET", "/manifests/"), true},
		{"of an upload that begins", redirect(http.StatusTemporaryRedirect, "POST", "/blobs/uploads/"), false},
		{"of a manifest that is stored", redirect(http.StatusPermanentRedirect, "PUT", "/manifests/"), false},
		{"by the Location of an upload", redirect(http.StatusAccepted, "POST", "/blobs/uploads/"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startTraced(t)
			tr := startTrap(t)
			repo := "acme/app"
			pushSmall(t, upstreamAPI(p.reg), repo)
			p.rec.setRule(c.rule(tr.URL))
			if c.read {
				_, _ = p.api().tryPull(upstreamName+"/"+repo, "1")
			} else {
				tryPush(t, p.api(), upstreamName+"/acme/other")
			}
			if _, carrying := tr.seen(); len(carrying) > 0 {
				t.Errorf("a credential was carried along: %v", carrying)
			}
			if !slices.ContainsFunc(p.rec.requests(), func(s seen) bool { return s.Status/100 == 3 || s.Status == http.StatusAccepted }) {
				t.Errorf("nothing was redirected, so nothing was shown:\n%s", p.rec)
			}
		})
	}
}

// redirect answers matching requests with a status and a Location elsewhere.
func redirect(status int, method, part string) func(string) func(http.ResponseWriter, *http.Request) bool {
	return func(to string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || !strings.Contains(r.URL.Path, part) || r.Header.Get("Authorization") == "" {
				return false
			}
			w.Header().Set("Location", to+r.URL.Path)
			w.WriteHeader(status)
			return true
		}
	}
}
