package authinject

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pushproxy/oci"
)

const (
	home   = "https://registry.test"
	homeAt = "https://registry.test:443"
)

func TestBasicIsSentUpFrontOnceItIsKnown(t *testing.T) {
	t.Parallel()
	tr, w := newTransport(&registry{basic: true}, fixed{"": bob})
	mustSend(t, tr, 201, "HEAD", home+"/v2/acme/app/manifests/1", "")
	mustSend(t, tr, 201, "PUT", home+"/v2/acme/app/manifests/1", "{}")
	if got := len(w.requests()); got != 3 {
		t.Errorf("the registry saw %d requests, want 3: one 401 and then none", got)
	}
}

func TestBearerIsFetchedAndReused(t *testing.T) {
	t.Parallel()
	r := &registry{}
	tr, w := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "POST", home+"/v2/acme/app/blobs/uploads/", "")
	mustSend(t, tr, 201, "PUT", home+"/v2/acme/app/blobs/uploads/1?digest=x", "body")
	mustSend(t, tr, 201, "HEAD", home+"/v2/acme/app/blobs/sha256:0", "")
	if r.exchanges() != 1 {
		t.Errorf("%d tokens were fetched, want 1: what may push may pull", r.exchanges())
	}
	want := []string{
		"POST /v2/acme/app/blobs/uploads/",
		"GET /token?account=bob&client_id=pushproxy&scope=repository%3Aacme%2Fapp%3Apull%2Cpush&service=registry.test",
		"POST /v2/acme/app/blobs/uploads/",
		"PUT /v2/acme/app/blobs/uploads/1?digest=x",
		"HEAD /v2/acme/app/blobs/sha256:0",
	}
	if got := w.lines(homeAt); !slices.Equal(got, want) {
		t.Errorf("got requests\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range w.requests() {
		if strings.HasPrefix(s.line, "GET /token") != leaks(s.auth) {
			t.Errorf("%q was sent with the wrong kind of credential", s.line)
		}
	}
}

func TestARefusedTokenIsRenewedAndTheBodyRepeated(t *testing.T) {
	t.Parallel()
	r := &registry{}
	tr, w := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "POST", home+"/v2/acme/app/blobs/uploads/", "")
	r.revoke()
	mustSend(t, tr, 201, "PUT", home+"/v2/acme/app/blobs/uploads/1?digest=x", "the whole blob")
	var bodies []string
	for _, s := range w.requests() {
		if strings.HasPrefix(s.line, "PUT") {
			bodies = append(bodies, s.body)
		}
	}
	if !slices.Equal(bodies, []string{"the whole blob", "the whole blob"}) {
		t.Errorf("got bodies %q, want the blob twice", bodies)
	}
}

func TestABodyThatCannotBeRepeatedIsSentOnce(t *testing.T) {
	t.Parallel()
	r := &registry{}
	tr, w := newTransport(r, fixed{"": bob})
	put := func() int {
		req, err := http.NewRequestWithContext(t.Context(), "PATCH", home+"/v2/acme/app/blobs/uploads/1", io.MultiReader(strings.NewReader("stream")))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	if got := put(); got != 201 {
		t.Errorf("the first request with a stream got %d, want 201: the challenge is to be learned beforehand", got)
	}
	if got := w.lines(homeAt)[0]; got != "GET /v2/" {
		t.Errorf("the first request is %q, want the probe", got)
	}
	r.revoke()
	if got := put(); got != 401 {
		t.Errorf("a stream whose token was refused got %d, want the 401 itself", got)
	}
	if got := put(); got != 201 {
		t.Errorf("the next stream got %d, want 201 with a new token", got)
	}
}

func TestARefusalThatStaysIsReturnedAsItIs(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*registry{"basic": {basic: true, password: "another"}, "bearer": {life: -1}} {
		tr, w := newTransport(r, fixed{"": bob})
		req, err := http.NewRequestWithContext(t.Context(), "GET", home+"/v2/acme/app/tags/list", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.StatusCode != 401 {
			t.Fatalf("%s: got %v and error %v, want the 401", name, resp, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Contains(body, []byte("UNAUTHORIZED")) {
			t.Errorf("%s: the body of the 401 is gone: %q %v", name, body, err)
		}
		if n := len(w.requests()); n > 5 {
			t.Errorf("%s: %d requests for one refusal, want at most 5", name, n)
		}
	}
}

func TestAnonymousRequestsWork(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]Source{"no source": nil, "a source without the host": Chain{fixed{}}} {
		tr, w := newTransport(&registry{anonymous: true}, source)
		mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
		for _, s := range w.requests() {
			if strings.HasPrefix(s.auth, "Basic") {
				t.Errorf("%s: Basic was sent", name)
			}
		}
		tr, w = newTransport(&registry{basic: true}, source)
		mustSend(t, tr, 401, "GET", home+"/v2/acme/app/manifests/1", "")
		if len(w.requests()) != 1 {
			t.Errorf("%s: %d requests to a registry that wants a password, want 1", name, len(w.requests()))
		}
		tr, _ = newTransport(&registry{}, source)
		_, err := send(t, tr, "GET", home+"/v2/acme/app/manifests/1", "")
		if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "docker login registry.test") {
			t.Errorf("%s: got error %v, want the remedy", name, err)
		}
	}
}

func TestARegistryTokenIsSentAsItIs(t *testing.T) {
	t.Parallel()
	r := &registry{tokens: map[string]grant{}}
	tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+canary {
			r.ServeHTTP(rw, req)
		}
	}), fixed{"": {Bearer: canary, Source: "docker config x"}})
	mustSend(t, tr, 200, "GET", home+"/v2/acme/app/manifests/1", "")
	if slices.ContainsFunc(w.requests(), func(s sighting) bool { return strings.Contains(s.line, "/token") }) {
		t.Error("the token server was asked")
	}
}

func TestAChangedDemandIsLearned(t *testing.T) {
	t.Parallel()
	r := &registry{basic: true}
	tr, _ := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
	r.basic = false
	mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
	// The token server moves away, so the token that is held is all there is.
	r.realm = "https://auth.registry.test/token"
	mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
}

func TestARefusalWithoutAChallengeAsksTheRoot(t *testing.T) {
	t.Parallel()
	// As Artifact Registry does (protocol.md C4).
	r := &registry{}
	mute := func(silent bool) http.HandlerFunc {
		return func(rw http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/token" || r.allowed(req) && req.URL.Path != "/v2/" {
				r.ServeHTTP(rw, req)
				return
			}
			if req.URL.Path == "/v2/" && !silent {
				r.ServeHTTP(rw, &http.Request{Method: "GET", URL: &url.URL{Path: "/v2/acme/app/manifests/1"}, Header: http.Header{}})
				return
			}
			rw.WriteHeader(401)
		}
	}
	tr, _ := newTransport(mute(false), fixed{"": bob})
	mustSend(t, tr, 201, "PUT", home+"/v2/acme/app/manifests/1", "{}")
	tr, w := newTransport(mute(true), fixed{"": bob})
	mustSend(t, tr, 401, "PUT", home+"/v2/acme/app/manifests/1", "{}")
	w.mustHoldSecretOnlyAt(t)
}

func TestWarmFetchesTheTokenAhead(t *testing.T) {
	t.Parallel()
	r := &registry{}
	tr, w := newTransport(r, fixed{"": bob})
	repo := oci.Repo{Host: "registry.test", Name: "acme/app"}
	if err := tr.Warm(t.Context(), repo, true); err != nil {
		t.Fatal(err)
	}
	before := len(w.requests())
	mustSend(t, tr, 201, "PUT", home+"/v2/acme/app/manifests/1", "{}")
	if got := len(w.requests()) - before; got != 1 {
		t.Errorf("the push took %d requests after warming, want 1", got)
	}
	tr, _ = newTransport(&registry{password: "another"}, fixed{"": bob})
	if err := tr.Warm(t.Context(), repo, true); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("warming with a wrong password: got %v, want the refusal", err)
	}
}
