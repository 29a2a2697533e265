package proxy

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

func TestTagsAreTheUpstreamsUnderTheClientsName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, tag := range []string{"a", "b", "c"} {
		r.other.AddManifest("team/app", tag, oci.MediaTypeOCIManifest, []byte(`{}`))
	}
	// distribution takes no tags at all for a mistake.
	r.hook = func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Query().Get("n") == "0" {
			w.WriteHeader(400)
			return true
		}
		return false
	}
	for _, test := range []struct{ query, tags, link string }{
		{"", "a b c", ""},
		{"?n=2", "a b", `</v2/corp/app/tags/list?last=b&n=2>; rel="next"`},
		{"?n=2&last=b", "c", ""},
		{"?n=0", "", ""},
		{"?last=z", "", ""},
	} {
		got := r.want(200, "GET", "/v2/corp/app/tags/list"+test.query, nil)
		var list struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(got.body, &list); err != nil || list.Tags == nil || list.Name != "corp/app" || strings.Join(list.Tags, " ") != test.tags {
			t.Errorf("%q: %s", test.query, got.body)
		}
		r.hasHeaders(got, flags{"Link": test.link, "Content-Type": "application/json"})
	}
}

func TestListsThatCannotBeReadAreErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write([]byte("<html>welcome</html>"))
		return true
	}
	for _, path := range []string{"/tags/list", "/referrers/" + digest.FromString("x").String()} {
		if code, message := r.code(r.want(502, "GET", app+path, nil)); code != "UNAVAILABLE" || !strings.Contains(message, "registry.test") || strings.Contains(message, "<") {
			t.Errorf("%s: %s %s", path, code, message)
		}
	}
}
