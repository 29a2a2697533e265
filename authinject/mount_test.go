package authinject

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pushproxy/oci"
)

const mountOfBase = home + "/v2/acme/app/blobs/uploads/?mount=sha256:0&from=acme/base"

// tokenScopes returns the scopes of each token request, in order.
func tokenScopes(t *testing.T, w *wire) []string {
	t.Helper()
	var all []string
	for _, line := range w.lines(homeAt) {
		_, query, ok := strings.Cut(line, "/token?")
		if !ok {
			continue
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Join(q["scope"], " "))
	}
	return all
}

func TestScopesFollowFromTheRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ method, path, repo, want string }{
		"reading a manifest pulls":                      {"GET", "/v2/acme/app/manifests/1", "", "repository:acme/app:pull"},
		"asking for a blob pulls":                       {"HEAD", "/v2/acme/app/blobs/sha256:0", "", "repository:acme/app:pull"},
		"tags and referrers pull":                       {"GET", "/v2/acme/app/referrers/sha256:0", "", "repository:acme/app:pull"},
		"starting an upload pushes":                     {"POST", "/v2/acme/app/blobs/uploads/", "", "repository:acme/app:pull,push"},
		"writing a manifest pushes":                     {"PUT", "/v2/acme/app/manifests/1", "", "repository:acme/app:pull,push"},
		"deleting asks for all three":                   {"DELETE", "/v2/acme/app/manifests/1", "", "repository:acme/app:pull,push,delete"},
		"a mount pulls its source":                      {"POST", "/v2/a/b/blobs/uploads/?mount=sha256:0&from=c/d", "", "repository:a/b:pull,push repository:c/d:pull"},
		"a mount from itself has one scope":             {"POST", "/v2/a/b/blobs/uploads/?mount=sha256:0&from=a/b", "", "repository:a/b:pull,push"},
		"from without mount is not a source":            {"POST", "/v2/a/b/blobs/uploads/?from=c/d", "", "repository:a/b:pull,push"},
		"a name in the context that is none does not":   {"GET", "/v2/acme/app/manifests/1", "a:pull repository:secret", "repository:acme/app:pull"},
		"nor does it where the path has none":           {"PUT", "/artifacts-uploads/x/y", "a:pull repository:secret", ""},
		"only a POST mounts":                            {"PUT", "/v2/a/b/blobs/uploads/1?mount=sha256:0&from=c/d", "", "repository:a/b:pull,push"},
		"a source that is no name is left out":          {"POST", "/v2/a/b/blobs/uploads/?mount=sha256:0&from=c:*", "", "repository:a/b:pull,push"},
		"a name may have components like the API's":     {"GET", "/v2/blobs/manifests/tags/manifests/1", "", "repository:blobs/manifests/tags:pull"},
		"GHCR's upload path names the repository":       {"PATCH", "/v2/acme/app/blobs/upload/7", "", "repository:acme/app:pull,push"},
		"a path before /v2/ does not matter":            {"GET", "/mirror/v2/acme/app/manifests/1", "", "repository:acme/app:pull"},
		"the context names it where the path does not":  {"PUT", "/artifacts-uploads/x/y", "acme/app", "repository:acme/app:pull,push"},
		"the context goes before the path":              {"PUT", "/v2/other/app/blobs/uploads/1", "acme/app", "repository:acme/app:pull,push"},
		"the root needs no scope":                       {"GET", "/v2/", "", ""},
		"the catalog has its own":                       {"GET", "/v2/_catalog?n=5", "", "registry:catalog:*"},
		"a name that cannot be one gives no scope":      {"GET", "/v2/Acme/App/manifests/1", "", ""},
		"an upload of unknown shape has no scope alone": {"PUT", "/artifacts-uploads/x/y", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			if c.repo != "" {
				ctx = oci.ContextWithRepo(ctx, oci.Repo{Host: "registry.test", Name: c.repo})
			}
			req, err := http.NewRequestWithContext(ctx, c.method, home+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(wantOf(req, "registry.test").scopes(), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestARepositoryOfAnotherHostInTheContextDoesNotCount(t *testing.T) {
	t.Parallel()
	ctx := oci.ContextWithRepo(t.Context(), oci.Repo{Host: "other.test", Name: "their/app"})
	req, err := http.NewRequestWithContext(ctx, "GET", home+"/v2/acme/app/manifests/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := wantOf(req, "registry.test").repo; got != (oci.Repo{Host: "registry.test", Name: "acme/app"}) {
		t.Errorf("got %v, want the repository of the path", got)
	}
}

func TestAMountWhoseSourceIsRefusedGoesOnWithoutIt(t *testing.T) {
	t.Parallel()
	const both, target = "repository:acme/app:pull,push repository:acme/base:pull", "repository:acme/app:pull,push"
	for name, status := range map[string]int{"bad request": 400, "unauthorized": 401, "forbidden": 403, "not found": 404} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &registry{refuse: func(scopes []string) int {
				if len(scopes) > 1 {
					return status
				}
				return 0
			}}
			tr, w := newTransport(r, fixed{"": bob})
			mustSend(t, tr, 201, "POST", mountOfBase, "")
			mustSend(t, tr, 201, "POST", mountOfBase, "")
			if got := tokenScopes(t, w); !slices.Equal(got, []string{both, target}) {
				t.Errorf("got token requests %q, want the refused one once and then the target's", got)
			}
		})
	}
}

func TestAMountWhoseTokenIsRefusedGoesOnWithoutItsSource(t *testing.T) {
	t.Parallel()
	r := &registry{}
	sourced := map[string]bool{}
	tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		// A registry that will not look at a token with two scopes.
		bearer, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		r.mu.Lock()
		if len(r.tokens[bearer].scopes) > 1 {
			sourced[bearer] = true
			delete(r.tokens, bearer)
		}
		r.mu.Unlock()
		r.ServeHTTP(rw, req)
	}), fixed{"": bob})
	mustSend(t, tr, 201, "POST", mountOfBase, "")
	posts := 0
	for _, line := range w.lines(homeAt) {
		if strings.HasPrefix(line, "POST") {
			posts++
			if !strings.Contains(line, "from=acme/base") {
				t.Errorf("the mount was changed: %s", line)
			}
		}
	}
	if posts != 3 || len(sourced) != 1 {
		t.Errorf("%d POSTs with %d sourced tokens, want 3 (none, both, target) and 1", posts, len(sourced))
	}
}

func TestAnExpiredMountTokenIsRenewedWithItsSource(t *testing.T) {
	t.Parallel()
	r := &registry{}
	tr, w := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "POST", mountOfBase, "")
	r.revoke()
	mustSend(t, tr, 201, "POST", mountOfBase, "")
	for _, scopes := range tokenScopes(t, w) {
		if !strings.Contains(scopes, "acme/base:pull") {
			t.Errorf("a token for %q only was asked: the mount lost its source", scopes)
		}
	}
}

func TestDeletingFallsBackToEverything(t *testing.T) {
	t.Parallel()
	// Quay's scope grammar has push, pull and * only.
	r := &registry{refuse: func(scopes []string) int {
		if strings.Contains(scopes[0], "delete") {
			return 400
		}
		return 0
	}}
	tr, w := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "DELETE", home+"/v2/acme/app/manifests/1", "")
	if got := tokenScopes(t, w); !slices.Equal(got, []string{"repository:acme/app:pull,push,delete", "repository:acme/app:*"}) {
		t.Errorf("got token requests %q", got)
	}
}

func TestTwoAccountsOnOneHostStayApart(t *testing.T) {
	t.Parallel()
	alice := Credential{Username: "alice", Password: "alice-" + canary, Source: "docker config x"}
	source := fixed{"acme/app": bob, "acme/base": bob, "other/app": alice}
	seen := map[string]string{}
	tr, _ := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			user, _, _ := req.BasicAuth()
			seen[req.URL.Query()["scope"][0]] = user
			_, _ = rw.Write([]byte(`{"access_token":"t-` + user + `"}`))
			return
		}
		name := nameIn(req.URL)
		if got := req.Header.Get("Authorization"); got != "" {
			seen[name] = got
			return
		}
		(&registry{}).ServeHTTP(rw, req)
	}), source)
	mustSend(t, tr, 200, "POST", mountOfBase, "")
	mustSend(t, tr, 200, "POST", home+"/v2/other/app/blobs/uploads/", "")
	mustSend(t, tr, 200, "POST", home+"/v2/acme/app/blobs/uploads/", "")
	if seen["acme/app"] != "Bearer t-bob" || seen["other/app"] != "Bearer t-alice" {
		t.Errorf("got tokens %v, want bob's for acme and alice's for other", seen)
	}
	if seen["repository:acme/app:pull,push"] != "bob" || seen["repository:other/app:pull,push"] != "alice" {
		t.Errorf("got accounts %v", seen)
	}
}

func TestATokenIsNotAskedForMoreThanIsNeeded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method string
		status int // of the token server
		want   []string
	}{
		"a pull that is called a bad request":      {"GET", 400, []string{"repository:acme/app:pull"}},
		"a push that is called a bad request":      {"PUT", 400, []string{"repository:acme/app:pull,push"}},
		"a delete that is forbidden":               {"DELETE", 403, []string{"repository:acme/app:pull,push,delete"}},
		"a delete whose action nobody understands": {"DELETE", 400, []string{"repository:acme/app:pull,push,delete", "repository:acme/app:*"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, w := newTransport(&registry{refuse: func([]string) int { return test.status }}, fixed{"": bob})
			if code, err := send(t, tr, test.method, manifest, ""); !errors.Is(err, oci.ErrDenied) {
				t.Errorf("got %d and %v, want the refusal", code, err)
			}
			if got := tokenScopes(t, w); !slices.Equal(got, test.want) {
				t.Errorf("tokens for %q were asked for, want %q", got, test.want)
			}
		})
	}
}

// A request that a token does not cover costs a refusal.
func TestATokenIsUsedForWhatItCoversOnly(t *testing.T) {
	t.Parallel()
	push, root := home+"/v2/acme/app/blobs/uploads/", home+"/v2/"
	for name, test := range map[string]struct {
		first, method, address string
		line                   string // of the second request
		tokens                 int
	}{
		"a push token for a pull":              {push, "GET", manifest, "GET /v2/acme/app/manifests/1", 1},
		"not for a delete":                     {push, "DELETE", manifest, "DELETE /v2/acme/app/manifests/1", 2},
		"nor one without a scope for a push":   {root, "PUT", manifest, "PUT /v2/acme/app/manifests/1", 2},
		"nor that of a login for the catalog":  {root, "GET", root + "_catalog", "GET /v2/_catalog", 2},
		"nor a pull token for another's image": {manifest, "GET", home + "/v2/acme/other/manifests/1", "GET /v2/acme/other/manifests/1", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &registry{}
			tr, w := newTransport(r, fixed{"": bob})
			method := "GET"
			if test.first == push {
				method = "POST"
			}
			mustSend(t, tr, 201, method, test.first, "")
			mustSend(t, tr, 201, test.method, test.address, "")
			n := 0
			for _, line := range w.lines(homeAt) {
				if line == test.line {
					n++
				}
			}
			if n != 1 || r.exchanges() != test.tokens {
				t.Errorf("%d requests with %d tokens, want 1 with %d: %q", n, r.exchanges(), test.tokens, w.lines(homeAt))
			}
		})
	}
	// A push that is refused says nothing about a pull.
	r := &registry{refuse: func(scopes []string) int {
		if strings.Contains(scopes[0], "push") {
			return 403
		}
		return 0
	}}
	tr, w := newTransport(r, fixed{"": bob})
	if _, err := send(t, tr, "PUT", manifest, "{}"); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("got %v, want the refusal", err)
	}
	tr.remember(homeAt, demand{scheme: "bearer", realm: &url.URL{Scheme: "https", Host: "registry.test", Path: "/token"}, service: "registry.test"})
	mustSend(t, tr, 201, "GET", manifest, "")
	for _, s := range w.requests() {
		if s.auth == "Bearer " {
			t.Error("a refusal was sent as a token")
		}
	}
}
