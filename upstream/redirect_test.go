package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

const canary = "canary-7f3a"

// injector adds the canary as the real one does: at the configured origin only.
func injector(t *testing.T, next http.RoundTripper, origin string) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
			if req.Header.Get(name) != "" {
				t.Errorf("%s %s already carries %s", req.Method, req.URL.Host, name)
			}
		}
		if req.URL.Scheme+"://"+req.URL.Host == origin {
			req = req.Clone(req.Context())
			req.Header.Set("Authorization", "Bearer "+canary)
		}
		return next.RoundTrip(req)
	})
}

func TestS11RedirectMatrix(t *testing.T) {
	t.Parallel()
	targets := map[string]struct {
		location string
		read     bool // a GET follows
		write    bool // a PUT follows a 307 or 308
	}{
		"the same origin":      {"/elsewhere?sig=s3cr3t", true, true},
		"the same, absolute":   {"https://registry.test/elsewhere", true, true},
		"the same, with port":  {"https://registry.test:443/elsewhere", true, true},
		"a subdomain":          {"https://cdn.registry.test/elsewhere?sig=s3cr3t", true, false},
		"another port":         {"https://registry.test:8443/elsewhere", true, false},
		"another host":         {"https://storage.test/elsewhere?sig=s3cr3t", true, false},
		"no scheme":            {"//storage.test/elsewhere?sig=s3cr3t", true, false},
		"clear text":           {"http://registry.test/elsewhere?sig=s3cr3t", false, false},
		"clear text elsewhere": {"http://storage.test/elsewhere?sig=s3cr3t", false, false},
		"a user in the URL":    {"https://me:pw@storage.test/elsewhere?sig=s3cr3t", false, false},
		"a file":               {"file:///etc/passwd", false, false},
		"a scheme of its own":  {"ftp://storage.test/elsewhere", false, false},
		"no host":              {"https:///elsewhere", false, false},
		"nonsense":             {"https://[::1?sig=s3cr3t", false, false},
	}
	b, d := blobOf(5000)
	for name, target := range targets {
		for _, status := range []int{301, 302, 303, 307, 308} {
			t.Run(name+" by "+strconv.Itoa(status), func(t *testing.T) {
				t.Parallel()
				hosts := map[string]string{}
				c := newClient(&upstreamtest.Registry{})
				c.HTTP.Transport = injector(t, upstreamtest.Transport(redirecting(t, status, target.location, b, hosts)), "https://registry.test")
				body, err := c.GetBlob(t.Context(), app, d, "")
				checkFollowed(t, "GET", err, target.read, hosts)
				if err == nil {
					body.Close()
				}
				clear(hosts)
				u := &Upload{c: c, Repo: app, Digest: d, session: mustURL("https://registry.test/v2/u1")}
				k := u.closing()
				k.body, k.size = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, int64(len(b))
				a, err := c.once(t.Context(), k)
				checkFollowed(t, "PUT", err, target.write && status >= 307, hosts)
				if err == nil && !a.redirected {
					t.Error("the answer does not say that it came by a redirect")
				}
			})
		}
	}
}

// redirecting answers everything by a redirect, and at the target takes or
// gives b and notes who asked.
func redirecting(t *testing.T, status int, location string, b []byte, hosts map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if auth := req.Header.Get("Authorization"); auth != "" && req.Host != "registry.test" && req.Host != "registry.test:443" {
			t.Errorf("%s got %s", req.Host, auth)
		}
		if !strings.HasPrefix(req.URL.Path, "/elsewhere") {
			w.Header().Set("Location", location)
			w.WriteHeader(status)
			return
		}
		hosts[req.Host] = req.Method
		if req.Method == http.MethodPut {
			if !bytes.Equal(body, b) {
				t.Errorf("%d bytes arrived, want %d", len(body), len(b))
			}
			w.WriteHeader(http.StatusCreated)
		}
		if req.Method == http.MethodGet {
			_, _ = w.Write(b)
		}
	})
}

func checkFollowed(t *testing.T, method string, err error, want bool, hosts map[string]string) {
	t.Helper()
	if (err == nil) != want || (len(hosts) > 0) != want {
		t.Errorf("%s: reached %v, %v; want followed %v", method, hosts, err, want)
	}
	if err != nil && (!errors.Is(err, oci.ErrUpstream) || strings.Contains(err.Error(), "s3cr3t")) {
		t.Errorf("%s: %v; want ErrUpstream without the query", method, err)
	}
}

// Storage answers a look at a blob as it answers a read.
func TestALookFollowsARedirectToStorage(t *testing.T) {
	t.Parallel()
	b, d := blobOf(5000)
	c := newClient(&upstreamtest.Registry{})
	hosts := map[string]string{}
	c.HTTP.Transport = injector(t, upstreamtest.Transport(redirecting(t, http.StatusTemporaryRedirect, "https://storage.test/elsewhere?sig=s3cr3t", b, hosts)), "https://registry.test")
	if _, found, err := c.HeadBlob(t.Context(), app, d); err != nil || !found || hosts["storage.test"] != http.MethodHead {
		t.Errorf("found %t, %v; asked %v", found, err, hosts)
	}
}

func TestS32AnEndlessRedirectEnds(t *testing.T) {
	t.Parallel()
	n := 0
	c := newClient(&upstreamtest.Registry{})
	c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n++
		http.Redirect(w, req, "/v2/"+strconv.Itoa(n), http.StatusFound)
	}))
	if err := c.Ping(t.Context()); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("error %v", err)
	}
	if n != maxHops+1 {
		t.Errorf("%d requests, want %d", n, maxHops+1)
	}
}

// GCR once answered the PUT for a missing repository by a redirect to a page
// that says 200 (https://github.com/containers/image/issues/1420).
func TestA201ThatCameByARedirectIsConfirmed(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/fine":
			w.WriteHeader(http.StatusCreated)
		case req.Method == http.MethodPut:
			http.Redirect(w, req, "/fine", http.StatusTemporaryRedirect)
		default:
			r.ServeHTTP(w, req)
		}
	}))
	b, d := blobOf(100)
	if err := push(t, c, b, d); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("push: %v, want ErrUpstream", err)
	}
	if _, err := c.PutManifest(t.Context(), app, "v1", "x", []byte("{}"), nil); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("manifest: %v, want ErrUpstream", err)
	}
}

func TestUploadLocations(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		base, location string
		hosts          []string
		want           string // "": refused
	}{
		"path-absolute":                              {"https://r.test", "/v2/x/blobs/uploads/u1", nil, "https://r.test/v2/x/blobs/uploads/u1"},
		"GitHub's own path":                          {"https://r.test", "/v2/x/blobs/upload/u1", nil, "https://r.test/v2/x/blobs/upload/u1"},
		"relative":                                   {"https://r.test", "u1?a=b", nil, "https://r.test/v2/x/blobs/uploads/u1?a=b"},
		"relative upwards":                           {"https://r.test", "../up/u1", nil, "https://r.test/v2/x/blobs/up/u1"},
		"a query alone":                              {"https://r.test", "?u=1", nil, "https://r.test/v2/x/blobs/uploads/?u=1"},
		"absolute":                                   {"https://r.test", "https://r.test/u1?_state=a%2Bb==", nil, "https://r.test/u1?_state=a%2Bb=="},
		"the port spelled out":                       {"https://r.test", "https://r.test:443/u1", nil, "https://r.test/u1"},
		"the port left out":                          {"https://r.test:443", "https://r.test/u1", nil, "https://r.test:443/u1"},
		"a port left out that is not the usual":      {"https://r.test:5443", "https://r.test/u1", nil, ""},
		"http behind TLS":                            {"https://r.test", "http://r.test/u1", nil, "https://r.test/u1"},
		"http behind TLS with a port":                {"https://r.test:5443", "http://r.test:5443/u1", nil, "https://r.test:5443/u1"},
		"http and its port behind TLS":               {"https://r.test", "http://r.test:80/u1", nil, "https://r.test/u1"},
		"http and TLS's port behind TLS":             {"https://r.test", "http://r.test:443/u1", nil, "https://r.test/u1"},
		"an address that is listed":                  {"https://r.test", "https://[fd00::1]/u1", []string{"[fd00::1]"}, "https://[fd00::1]/u1"},
		"an address that is listed without brackets": {"https://r.test", "https://[fd00::1]:9000/u1", []string{"fd00::1"}, "https://[fd00::1]:9000/u1"},
		"https from a clear one":                     {"http://r.test:5000", "https://r.test:5000/u1", nil, "http://r.test:5000/u1"},
		"upper case":                                 {"https://r.test", "HTTPS://R.TEST/u1", nil, "https://r.test/u1"},
		"another port":                               {"https://r.test", "https://r.test:8443/u1", nil, ""},
		"another host":                               {"https://r.test", "https://s3.test/u1", nil, ""},
		"another host without scheme":                {"https://r.test", "//s3.test/u1", nil, ""},
		"another host that is listed":                {"https://r.test", "https://s3.test/u1?sig=x", []string{"s3.test"}, "https://s3.test/u1?sig=x"},
		"listed with its port":                       {"https://r.test", "https://s3.test:9000/u1", []string{"s3.test:9000"}, "https://s3.test:9000/u1"},
		"listed, in clear text behind TLS":           {"https://r.test", "http://s3.test/u1", []string{"s3.test"}, ""},
		"listed with the scheme's port":              {"https://r.test", "https://s3.test/u1", []string{"s3.test:443"}, "https://s3.test/u1"},
		"listed, on a port of its own":               {"https://r.test", "https://s3.test:9000/u1", []string{"s3.test"}, "https://s3.test:9000/u1"},
		"listed, on another port":                    {"https://r.test", "https://s3.test:9000/u1", []string{"s3.test:443"}, ""},
		"listed, in clear text as all":               {"http://r.test", "http://s3.test/u1", []string{"s3.test"}, "http://s3.test/u1"},
		"no host":                                    {"https://r.test", "https:///u1", nil, ""},
		"a fallback's host":                          {"https://r.test", "https://mirror.test/u1", nil, "https://mirror.test/u1"},
		"a suffix of a listed host":                  {"https://r.test", "https://evil-s3.test/u1", []string{"s3.test"}, ""},
		"a user":                                     {"https://r.test", "https://me:pw@r.test/u1", nil, ""},
		"another scheme":                             {"https://r.test", "ftp://r.test/u1", nil, ""},
		"opaque":                                     {"https://r.test", "mailto:a@b", nil, ""},
		"nothing":                                    {"https://r.test", "", nil, ""},
		"nonsense":                                   {"https://r.test", "https://[::1", nil, ""},
	}
	for name, test := range tests {
		c := &Client{Host: "r.test", URLs: []*url.URL{mustURL(test.base), mustURL("https://mirror.test")}, UploadHosts: test.hosts}
		got, err := c.locate(mustURL(test.base+"/v2/x/blobs/uploads/?mount=1"), test.location)
		switch {
		case test.want == "" && (!errors.Is(err, oci.ErrUpstream) || strings.Contains(err.Error(), "sig=")):
			t.Errorf("%s: %v, %v; want it refused", name, got, err)
		case test.want != "" && (err != nil || got.String() != test.want):
			t.Errorf("%s: %v, %v; want %s", name, got, err, test.want)
		}
	}
}

func TestS11AnUploadElsewhereGetsNoCredential(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{Location: func(_ *http.Request, path string) string { return "https://uploads.test" + path + "?sig=s3cr3t" }}
	c := newClient(r)
	c.UploadHosts = []string{"uploads.test"}
	c.HTTP.Transport = injector(t, r.Transport(), "https://registry.test")
	b, d := blobOf(1000)
	noError(t, push(t, c, b, d))
	for _, q := range r.Log() {
		if auth := q.Header.Get("Authorization"); (auth != "") != (q.Host == "registry.test") {
			t.Errorf("%s %s: Authorization %q", q.Host, q, auth)
		}
	}
	c.UploadHosts = nil
	if err := push(t, c, b, d); !errors.Is(err, oci.ErrUpstream) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("unlisted: %v; want ErrUpstream without the query", err)
	}
}

func TestS11ErrorsNeverShowALocationsQuery(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{Location: func(_ *http.Request, path string) string { return path + "?sig=s3cr3t" }}
	c := newClient(r)
	c.Attempts = 1
	u, _, err := c.StartUpload(t.Context(), app, digest.FromString("x"), "")
	noError(t, err)
	for _, fault := range []upstreamtest.Fault{{Reset: true}, {Status: 403}, {Status: 500}, {Status: 404, Code: "NAME_UNKNOWN"}} {
		// A Send after the first asks where the upload stands before it goes on.
		fault.Method = http.MethodPut
		r.Inject(fault)
		if err := u.Send(t.Context(), 1, opener([]byte("x"))); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%+v: %v", fault, err)
		}
	}
}

func TestARefusalByTheStorageIsNotOneOfTheCredential(t *testing.T) {
	t.Parallel()
	c := newClient(&upstreamtest.Registry{})
	c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Host == "registry.test" {
			http.Redirect(w, req, "https://storage.test/x?sig=s3cr3t", http.StatusTemporaryRedirect)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	_, err := c.GetBlob(t.Context(), app, digest.FromString("x"), "")
	if !errors.Is(err, oci.ErrUpstream) || !strings.Contains(err.Error(), "storage.test") || strings.Contains(err.Error(), "docker login") {
		t.Errorf("error %v, want ErrUpstream that names the storage", err)
	}
}

func TestWhatStorageAnswersIsItsOwn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at     string
		status int
		want   error
		login  bool
	}{
		"401 of the storage is no refusal of the credential": {"https://storage.test/x", 401, oci.ErrUpstream, false},
		"nor is 403":                            {"https://storage.test/x", 403, oci.ErrUpstream, false},
		"404 of the storage is a missing blob":  {"https://storage.test/x", 404, oci.ErrBlobUnknown, false},
		"403 at the same origin is one":         {"/x", 403, oci.ErrDenied, true},
		"so is 403 at a fallback's":             {"https://mirror.test/x", 403, oci.ErrDenied, true},
		"403 at another port of it is not":      {"https://registry.test:8443/x", 403, oci.ErrUpstream, false},
		"nor at a fallback's host in the clear": {"https://clear.test/x", 403, oci.ErrUpstream, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(&upstreamtest.Registry{})
			c.URLs = append(c.URLs, mustURL("https://mirror.test"), mustURL("http://clear.test"))
			c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path != "/x" {
					http.Redirect(w, req, test.at, http.StatusTemporaryRedirect)
					return
				}
				w.WriteHeader(test.status)
			}))
			_, err := c.GetBlob(t.Context(), app, digest.FromString("x"), "")
			if !errors.Is(err, test.want) || strings.Contains(err.Error(), "docker login") != test.login {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func TestARefusalWhereAnUploadGoesIsNotOneOfTheCredential(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{Location: func(_ *http.Request, path string) string { return "https://uploads.test" + path + "?sig=s3cr3t" }}
	c := newClient(r)
	c.UploadHosts = []string{"uploads.test"}
	r.Inject(upstreamtest.Fault{Method: http.MethodPut, Status: 403})
	b, d := blobOf(10)
	if err := push(t, c, b, d); !errors.Is(err, oci.ErrUpstream) || !strings.Contains(err.Error(), "uploads.test") || strings.Contains(err.Error(), "docker login") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("error %v, want ErrUpstream that names where it was sent", err)
	}
}

func TestALocationWithoutAHostIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	c := newClient(&upstreamtest.Registry{})
	for _, location := range []string{"https:///u1", "http:///u1", "mailto:a@b", "https:u1"} {
		if u, err := c.locate(c.URLs[0], location); !errors.Is(err, errLocation) || !strings.Contains(err.Error(), "that is no URL") {
			t.Errorf("%s: %v, %v", location, u, err)
		}
	}
}

func TestS11WhatAnUpstreamInTheClearMayRedirectTo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		location    string
		read, write bool
	}{
		"the same origin":                {"/elsewhere", true, true},
		"TLS at another port":            {"https://registry.test/elsewhere", true, false},
		"TLS at the same port":           {"https://registry.test:5000/elsewhere", true, false},
		"clear text at another":          {"http://storage.test/elsewhere", true, false},
		"another scheme":                 {"ftp://registry.test:5000/elsewhere", false, false},
		"another scheme, without a host": {"file:///elsewhere", false, false},
		"no host":                        {"http:///elsewhere", false, false},
	} {
		u := mustURL("http://registry.test:5000/v2/x")
		resp := &http.Response{StatusCode: http.StatusTemporaryRedirect, Header: http.Header{"Location": {test.location}}}
		for method, want := range map[string]bool{http.MethodGet: test.read, http.MethodHead: test.read, http.MethodPut: test.write, http.MethodPost: test.write, http.MethodDelete: test.write} {
			if next, err := follow(call{method: method}, u, resp, 0); (err == nil) != want {
				t.Errorf("%s: %s leads to %v, %v; want followed %t", name, method, next, err, want)
			}
		}
	}
}
