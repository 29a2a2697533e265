package authinject

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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
	if got := strings.Join(w.lines(homeAt), "\n"); strings.Count(got, "GET /v2/") != 1 {
		t.Errorf("the root was asked more than once:\n%s", got)
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
	tr, w := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
	r.basic = false
	mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
	// The token server moves away, so the token that is held is all there is.
	r.realm = "https://auth.registry.test/token"
	mustSend(t, tr, 201, "GET", home+"/v2/acme/app/manifests/1", "")
	// And that one is revoked: what the refusal names is used at once.
	w.hosts["https://auth.registry.test:443"] = r
	w.hosts[homeAt] = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			rw.WriteHeader(http.StatusGone)
			return
		}
		r.ServeHTTP(rw, req)
	})
	r.revoke()
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

func TestWhatAsksForNothingGetsNothing(t *testing.T) {
	t.Parallel()
	for name, cred := range map[string]Credential{"a password": bob, "an identity": {Identity: canary}, "a registry token": {Bearer: canary}} {
		tr, w := newTransport(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), fixed{"": cred})
		mustSend(t, tr, 200, "GET", manifest, "")
		mustSend(t, tr, 200, "PUT", manifest, "{}")
		w.mustHoldSecretOnlyAt(t)
		if got := w.requests(); len(got) != 2 || got[0].auth+got[1].auth != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A source that fails is an error, whoever would have been let in without it.
func TestS14ASourceThatFailsIsNotAReasonToGoWithout(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*registry{"bearer": {anonymous: true}, "basic": {basic: true}} {
		tr, w := newTransport(r, failing{oci.ErrDenied.With("the store is locked")})
		for range 2 {
			if code, err := send(t, tr, "GET", manifest, ""); err == nil || !strings.Contains(err.Error(), "the store is locked") {
				t.Errorf("%s: got %d and %v, want the failure", name, code, err)
			}
		}
		for _, line := range w.lines(homeAt) {
			if strings.Contains(line, "/token") {
				t.Errorf("%s: %s was asked", name, line)
			}
		}
	}
}

func TestOddChallenges(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		challenges []string // the last one stays
		cred       Credential
		code       int
		requests   int
		says       string
	}{
		"an identity where a password is asked for":    {[]string{`Basic realm="x"`}, Credential{Identity: canary, Source: "docker config x"}, 0, 1, "identity token"},
		"a token where a password is asked for":        {[]string{`Basic realm="x"`}, Credential{Bearer: canary}, 401, 2, ""},
		"a token that is refused":                      {[]string{`Bearer realm="https://registry.test/token"`}, Credential{Bearer: canary}, 401, 2, ""},
		"no token server":                              {[]string{`Bearer service="x"`}, bob, 401, 1, ""},
		"a token server without a name":                {[]string{`Bearer realm=""`}, bob, 401, 1, ""},
		"no token server, and then a password":         {[]string{`Bearer service="x"`, `Bearer service="x"`, `Basic realm="x"`}, bob, 401, 4, ""},
		"a password, whatever its realm looks like":    {[]string{`Basic realm="https://evil.example/"`}, bob, 401, 2, ""},
		"a password, for whoever has none":             {[]string{`Basic realm="https://evil.example/"`}, Credential{}, 401, 1, ""},
		"nothing that is understood":                   {[]string{`Digest realm="x"`}, bob, 401, 2, ""},
		"nothing at all, and no root":                  {[]string{""}, bob, 401, 2, ""},
		"a scheme without anything behind it":          {[]string{"Bearer"}, bob, 401, 1, ""},
		"one that is of use among others that are not": {[]string{`Negotiate, Digest realm="x", Basic realm="x"`}, bob, 401, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				if c := test.challenges[min(n, len(test.challenges)-1)]; c != "" {
					rw.Header().Set("WWW-Authenticate", c)
				}
				n++
				rw.WriteHeader(401)
			}), fixed{"": test.cred})
			var err error
			code := 0
			for range len(test.challenges) {
				code, err = send(t, tr, "GET", manifest, "")
			}
			if code != test.code || (err != nil) != (test.says != "") || err != nil && (!errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %d and %v, want %d", code, err, test.code)
			}
			if len(w.requests()) != test.requests {
				t.Errorf("%d requests, want %d: %q", len(w.requests()), test.requests, w.lines(homeAt))
			}
			w.mustHoldSecretOnlyAt(t, homeAt)
		})
	}
}

// mint is a helper that is asked again: its nth answer.
type mint func(n int) (Credential, error)

func (m mint) source(asked *int) Source {
	return sourceFunc(func() (Credential, error) {
		*asked++
		c, err := m(*asked)
		return c, err
	})
}

type sourceFunc func() (Credential, error)

func (f sourceFunc) Credential(context.Context, oci.Repo) (Credential, error) { return f() }
func (f sourceFunc) Hosts(context.Context) ([]string, error)                  { return nil, nil }

func TestHowOftenACredentialThatIsRefusedIsAskedForAgain(t *testing.T) {
	t.Parallel()
	minted := func(password Secret) Credential {
		return Credential{Username: "bob", Password: password, Minted: true, Source: "helper x"}
	}
	for name, test := range map[string]struct {
		mint  mint
		sent  int // credentials that differ, to the token server or the registry
		asked int
		ends  int // with the registry's answer; 0: with an error
	}{
		"one that stays the same is not":    {func(int) (Credential, error) { return minted("old"), nil }, 1, 2, 0},
		"one that is new each time is once": {func(n int) (Credential, error) { return minted(Secret("old" + strconv.Itoa(n))), nil }, 2, 2, 0},
		"one that is good the second time":  {func(n int) (Credential, error) { return minted([]Secret{"", "old", canary, canary}[min(n, 3)]), nil }, 2, 2, 201},
		"a helper that fails the second time": {func(n int) (Credential, error) {
			if n > 1 {
				return Credential{}, oci.ErrDenied.With("locked")
			}
			return minted("old"), nil
		}, 1, 2, 0},
		"an account of a file is not": {func(int) (Credential, error) { return Credential{Username: "bob", Password: "old"}, nil }, 1, 1, 0},
	} {
		for _, basic := range []bool{false, true} {
			t.Run(name+", basic "+strconv.FormatBool(basic), func(t *testing.T) {
				t.Parallel()
				asked := 0
				tr, w := newTransport(&registry{basic: basic}, test.mint.source(&asked))
				code, err := send(t, tr, "GET", manifest, "")
				ends := test.ends
				if basic && ends == 0 {
					ends = 401
				}
				if basic && strings.Contains(name, "fails") {
					// The registry's refusal is what there is to show.
					err = nil
				}
				if code != ends || (err == nil) != (ends != 0) {
					t.Errorf("got %d and %v, want %d", code, err, ends)
				}
				var sent []string
				for _, s := range w.requests() {
					if s.auth != "" && strings.HasPrefix(s.auth, "Basic") {
						sent = append(sent, s.auth)
					}
				}
				if len(sent) != test.sent || len(slices.Compact(sent)) != len(sent) {
					t.Errorf("%d credentials were sent, want %d that differ: %q", len(sent), test.sent, sent)
				}
				for _, s := range w.requests() {
					if strings.Contains(s.line, "/token") && s.auth == "" {
						t.Error("the token server was asked without a credential")
					}
				}
			})
		}
	}
}

func TestOneRequestIsSentFourTimesAtMost(t *testing.T) {
	t.Parallel()
	n, asked := 0, 0
	source := mint(func(n int) (Credential, error) {
		return Credential{Username: "bob", Password: Secret(canary + strconv.Itoa(n)), Minted: true}, nil
	}).source(&asked)
	tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			_, _ = rw.Write([]byte(`{"token":"t` + strconv.Itoa(n) + `"}`))
			return
		}
		n++
		challenge := `Basic realm="x"`
		if n > 2 {
			challenge = `Bearer realm="https://registry.test/token"`
		}
		rw.Header().Set("WWW-Authenticate", challenge)
		rw.WriteHeader(401)
	}), source)
	mustSend(t, tr, 401, "GET", manifest, "")
	if n != maxTries {
		t.Errorf("it was sent %d times: %q", n, w.lines(homeAt))
	}
}

func TestS11AnAddressWithoutAnOriginIsNoOrigin(t *testing.T) {
	t.Parallel()
	tr, w := newTransport(nil, fixed{"": bob})
	tr.Origins = []*url.URL{{Scheme: "ftp", Host: "registry.test"}, {}}
	w.hosts[""] = &registry{basic: true}
	for _, address := range []string{"ftp://registry.test/v2/x/manifests/1", "ftp://evil.example/v2/x/manifests/1"} {
		mustSend(t, tr, 401, "GET", address, "")
	}
	w.mustHoldSecretOnlyAt(t)
}

func TestWhatCannotBeReachedIsTheTransportsError(t *testing.T) {
	t.Parallel()
	down := errors.New("no way there")
	for name, test := range map[string]struct {
		fails func(path string) bool
		do    func(tr *Transport) error
	}{
		"a request": {func(string) bool { return true }, func(tr *Transport) error { return second(send(t, tr, "GET", manifest, "")) }},
		"the root, before a body that can be sent once": {func(path string) bool { return path == "/v2/" }, func(tr *Transport) error {
			req, err := http.NewRequestWithContext(context.Background(), "PATCH", home+"/v2/acme/app/blobs/uploads/1", io.MultiReader(strings.NewReader("stream")))
			if err != nil {
				t.Fatal(err)
			}
			_, err = tr.RoundTrip(req)
			return err
		}},
		"the root, ahead of need":        {func(path string) bool { return path == "/v2/" }, func(tr *Transport) error { return tr.Warm(context.Background(), oci.Repo{Name: "acme/app"}, false) }},
		"the root, after a mute refusal": {func(path string) bool { return path == "/v2/" }, func(tr *Transport) error { return second(send(t, tr, "GET", home+"/v2/mute/app/manifests/1", "")) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) { rw.WriteHeader(401) }), fixed{"": bob})
			tr.Base = opaque(func(r *http.Request) (*http.Response, error) {
				if test.fails(r.URL.Path) {
					return nil, down
				}
				return w.RoundTrip(r)
			})
			if err := test.do(tr); !errors.Is(err, down) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestWarmingAsksForNoMoreThanItIsTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		repo string
		push bool
		want string
	}{
		"to pull":         {"acme/app", false, "repository:acme/app:pull"},
		"to push":         {"acme/app", true, "repository:acme/app:pull,push"},
		"the login alone": {"", true, ""},
	} {
		tr, w := newTransport(&registry{}, fixed{"": bob})
		if err := tr.Warm(t.Context(), oci.Repo{Name: test.repo}, test.push); err != nil {
			t.Fatal(err)
		}
		if got := tokenScopes(t, w); !slices.Equal(got, []string{test.want}) {
			t.Errorf("%s: tokens for %q, want %q", name, got, test.want)
		}
		before := len(w.requests())
		if err := tr.Warm(t.Context(), oci.Repo{Name: test.repo}, test.push); err != nil || len(w.requests()) != before {
			t.Errorf("%s: warm again: %v, %q", name, err, w.lines(homeAt))
		}
	}
	if err := (&Transport{Host: "registry.test"}).Warm(t.Context(), oci.Repo{Name: "x"}, true); err != nil {
		t.Errorf("an upstream without an address: %v", err)
	}
}

func TestEverybodyIsToldWhoAsks(t *testing.T) {
	t.Parallel()
	var told []string
	r := &registry{}
	tr, _ := newTransport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		told = append(told, req.URL.Path+" "+req.Header.Get("User-Agent"))
		r.ServeHTTP(w, req)
	}), fixed{"": bob})
	tr.UserAgent = "pushproxy/1"
	if err := tr.Warm(t.Context(), oci.Repo{Name: "acme/app"}, false); err != nil {
		t.Fatal(err)
	}
	for _, own := range []http.Header{nil, {"User-Agent": {"docker/29"}}} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", manifest, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = own
		if _, err := tr.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"/v2/ pushproxy/1", "/token pushproxy/1", "/v2/acme/app/manifests/1 pushproxy/1", "/v2/acme/app/manifests/1 docker/29"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	// Without a name of its own nothing is said in its place.
	told, tr.UserAgent = nil, ""
	req, err := http.NewRequestWithContext(t.Context(), "GET", manifest, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = nil
	if _, err := tr.RoundTrip(req); err != nil || !slices.Equal(told, []string{"/v2/acme/app/manifests/1 "}) {
		t.Errorf("told %q, %v", told, err)
	}
}

// again is a body that counts how often it is opened.
type again struct {
	opened, closed int
	err            error
}

func (a *again) open() (io.ReadCloser, error) {
	a.opened++
	return struct {
		io.Reader
		io.Closer
	}{strings.NewReader("body"), a}, a.err
}

func (a *again) Close() error { a.closed++; return nil }

func TestABodyIsOpenedAgainOnlyToBeSentAgain(t *testing.T) {
	t.Parallel()
	r := &registry{}
	tr, w := newTransport(r, fixed{"": bob})
	put := func(b *again) (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), "PUT", manifest, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.opened = 1
		req.Body, req.GetBody = struct {
			io.Reader
			io.Closer
		}{strings.NewReader("body"), b}, b.open
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	b := &again{}
	if code, err := put(b); code != 201 || err != nil || b.opened != 2 || b.closed != 2 {
		t.Errorf("refused once: %d, %v; opened %d times, closed %d times", code, err, b.opened, b.closed)
	}
	b = &again{}
	if code, err := put(b); code != 201 || err != nil || b.opened != 1 || b.closed != 1 {
		t.Errorf("not refused: %d, %v; opened %d times, closed %d times", code, err, b.opened, b.closed)
	}
	r.revoke()
	before := len(w.requests())
	gone := &again{err: errors.New("the blob is gone")}
	if code, err := put(gone); !errors.Is(err, gone.err) {
		t.Errorf("a body that cannot be opened again: %d, %v", code, err)
	}
	for _, s := range w.requests()[before+1:] {
		if strings.HasPrefix(s.line, "PUT") {
			t.Errorf("%s went without its body: %q", s.line, s.body)
		}
	}
	// No body can be sent as often as one likes.
	tr, w = newTransport(&registry{}, fixed{"": bob})
	req, err := http.NewRequestWithContext(t.Context(), "POST", home+"/v2/acme/app/blobs/uploads/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.GetBody = nil
	if resp, err := tr.RoundTrip(req); err != nil || resp.StatusCode != 201 || strings.Contains(strings.Join(w.lines(homeAt), " "), "GET /v2/") {
		t.Errorf("without a body: %v, %q", err, w.lines(homeAt))
	}
}

func TestTheRootIsAskedForBelowTheBasePath(t *testing.T) {
	t.Parallel()
	for address, root := range map[string]string{home + "/mirror/v2/acme/app/manifests/1": "GET /mirror/v2/", home + "/odd/upload/1": "GET /v2/"} {
		tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401) }), fixed{"": bob})
		mustSend(t, tr, 401, "GET", address, "")
		if got := w.lines(homeAt); len(got) != 2 || got[1] != root {
			t.Errorf("%s: %q, want %s in the end", address, got, root)
		}
	}
}
