package authinject

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestTheCallersOwnCredentialsAreRemoved(t *testing.T) {
	t.Parallel()
	for _, address := range []string{home + "/v2/", "https://elsewhere.test/v2/"} {
		open := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for name := range r.Header {
				if name != "User-Agent" {
					t.Errorf("%s: header %s arrived", address, name)
				}
			}
			if r.Host != r.URL.Host {
				t.Errorf("%s: Host %q arrived", address, r.Host)
			}
		})
		tr, w := newTransport(open, fixed{"": bob})
		w.hosts["https://elsewhere.test:443"] = open
		req, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.User = url.UserPassword("u", canary)
		req.Host = "other.test"
		req.Header = http.Header{"authorization": {"Basic x"}, "Cookie": {"a=b"}, "Proxy-Authorization": {"x"}, "Proxy-Connection": {"x"}}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Request != req || req.Header.Get("Cookie") == "" {
			t.Error("the caller's request was changed or not given back")
		}
	}
}

func TestTheSentRequestIsNotGivenBack(t *testing.T) {
	t.Parallel()
	tr, _ := newTransport(&registry{basic: true}, fixed{"": bob})
	req, err := http.NewRequestWithContext(t.Context(), "GET", home+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Request.Header.Get("Authorization") != "" {
		t.Error("the answer carries the Authorization that was sent")
	}
}

func TestS11OnlyTheExactOriginGetsTheCredential(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]string{
		"another port":             "https://registry.test:8443/v2/acme/app/blobs/uploads/1",
		"plain http":               "http://registry.test/v2/acme/app/blobs/uploads/1",
		"http on the same port":    "http://registry.test:443/v2/acme/app/blobs/uploads/1",
		"a subdomain":              "https://cdn.registry.test/v2/acme/app/blobs/uploads/1",
		"a parent domain":          "https://test/v2/",
		"a trailing dot":           "https://registry.test./v2/",
		"another host":             "https://evil.example/v2/acme/app/blobs/uploads/1",
		"a private address":        "http://10.0.0.1/v2/",
		"a name in the user part":  "https://registry.test@evil.example/v2/",
		"a look-alike with suffix": "https://registry.test.evil.example/v2/",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []*registry{{basic: true}, {}} {
				tr, w := newTransport(r, fixed{"": bob})
				mustSend(t, tr, 201, "GET", home+"/v2/", "")
				u, err := url.Parse(address)
				if err != nil {
					t.Fatal(err)
				}
				// The other host asks for the password in the registry's name.
				w.hosts[originOf(u)] = &registry{basic: r.basic}
				mustSend(t, tr, 401, "PUT", address, "body")
				w.mustHoldSecretOnlyAt(t, homeAt)
				for _, s := range w.requests() {
					if s.origin != homeAt && s.auth != "" {
						t.Errorf("%s got Authorization", s.origin)
					}
				}
			}
		})
	}
}

func TestS11RedirectsTakeNothingAlong(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"https://cdn.registry.test/blob", "https://registry.test:8443/blob", "http://registry.test/blob",
		"//evil.example/blob", "https://evil.example/blob", "https://10.0.0.1/blob",
	} {
		for _, code := range []int{302, 307, 308} {
			registry := &registry{basic: true}
			tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if !registry.allowed(r) {
					registry.ServeHTTP(rw, r)
					return
				}
				rw.Header().Set("Location", target)
				rw.WriteHeader(code)
			}), fixed{"": bob})
			u, err := (&url.URL{Scheme: "https", Host: "registry.test"}).Parse(target)
			if err != nil {
				t.Fatal(err)
			}
			arrived := 0
			w.hosts[originOf(u)] = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				arrived++
				if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
					t.Errorf("%d to %s took the credential along", code, target)
				}
			})
			req, err := http.NewRequestWithContext(t.Context(), "GET", home+"/v2/acme/app/blobs/sha256:0", nil)
			if err != nil {
				t.Fatal(err)
			}
			// A caller that set its own header is where clients go wrong: Go
			// repeats it to subdomains and to other ports.
			req.Header.Set("Authorization", "Bearer "+canary)
			if _, err := (&http.Client{Transport: tr}).Do(req); err != nil || arrived != 1 {
				t.Errorf("%d to %s: error %v, arrived %d times, want once", code, target, err, arrived)
			}
			w.mustHoldSecretOnlyAt(t, homeAt)
		}
	}
}

func TestS10ATokenServerNeverGetsThePasswordOfABasicDowngrade(t *testing.T) {
	t.Parallel()
	// Harbor answers Basic to a token that it refuses (protocol.md C7).
	r := &registry{}
	tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.Header.Get("Authorization"), "Bearer") {
			rw.Header().Set("WWW-Authenticate", `Basic realm="harbor"`)
			rw.WriteHeader(401)
			return
		}
		r.ServeHTTP(rw, req)
	}), fixed{"": bob})
	mustSend(t, tr, 401, "POST", home+"/v2/acme/app/blobs/uploads/?mount=sha256:0&from=acme/base", "")
	for _, s := range w.requests() {
		if strings.HasPrefix(s.line, "POST") && strings.HasPrefix(s.auth, "Basic") {
			t.Error("the password was sent to the registry instead of its token server")
		}
	}
}
