package authinject

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pushproxy/oci"
)

// The scope of a token follows from the request alone: whatever path and query a request has, it names the repository of the
// path, one source of a mount at most, and nothing that could be read as another scope.
func FuzzS10S20ScopesOfRequests(f *testing.F) {
	for _, seed := range [][3]string{
		{"GET", "/v2/acme/app/manifests/v1", ""}, {"POST", "/v2/acme/app/blobs/uploads/", "mount=sha256:00&from=acme/base"},
		{"POST", "/v2/acme/app/blobs/uploads/", "from=acme/base%20repository:evil:pull"}, {"DELETE", "/v2/acme/app/blobs/x", ""},
		{"GET", "/v2/", ""}, {"PUT", "/v2/a/../b/manifests/x", "scope=repository:evil:*"}, {"GET", "/v2/a%2fb/tags/list", ""}, {"PATCH", "/v2/a:b/blobs/uploads/1", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, path, query string) {
		u, err := url.Parse("https://registry.test" + path + "?" + query)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		req, err := http.NewRequest(method, u.String(), nil)
		if err != nil {
			return
		}
		w := wantOf(req, "registry.test")
		scopes := w.scopes()
		if len(scopes) > 2 {
			t.Fatalf("%d scopes: %q", len(scopes), scopes)
		}
		for i, scope := range scopes {
			if scope == "registry:catalog:*" && len(scopes) == 1 && strings.HasSuffix(u.Path, "/v2/_catalog") {
				continue
			}
			kind, rest, _ := strings.Cut(scope, ":")
			name, actions, _ := strings.Cut(rest, ":")
			if kind != "repository" || !oci.ValidName(name) {
				t.Fatalf("the scope %q of %s %s", scope, method, u)
			}
			for action := range strings.SplitSeq(actions, ",") {
				if action != "pull" && action != "push" && action != "delete" && action != "*" {
					t.Fatalf("the scope %q of %s %s has the action %q", scope, method, u, action)
				}
			}
			// The request's own repository comes first, and a source is only read.
			if i == 0 && !strings.Contains(u.Path+"/", "/v2/"+name+"/") || i == 1 && actions != "pull" {
				t.Fatalf("the scopes %q of %s %s", scopes, method, u)
			}
		}
	})
}
