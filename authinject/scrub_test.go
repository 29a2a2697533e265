package authinject

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestS16ARefusalThatRepeatsTheCredentialIsCleaned(t *testing.T) {
	t.Parallel()
	const password = "canary/pass word"
	for _, status := range []int{400, 401, 403, 500} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			auth := r.Header.Get("Authorization")
			if auth == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			w.Header().Set("Warning", "299 - "+auth)
			w.WriteHeader(status)
			_, p, _ := r.BasicAuth()
			fmt.Fprintf(w, "kept %s %s %s", auth, p, url.QueryEscape(p))
		}))
		t.Cleanup(server.Close)
		origin, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		transport := &Transport{Host: "a.test", Origins: []*url.URL{origin}, Source: &Given{Host: "a.test", Account: Credential{Username: "u", Password: password}}}
		req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/v2/a/tags/list", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		text := string(body) + resp.Header.Get("Warning")
		if resp.StatusCode != status || !strings.Contains(text, "kept ") {
			t.Errorf("%d: %s", resp.StatusCode, text)
		}
		for _, secret := range []string{password, url.QueryEscape(password), base64.StdEncoding.EncodeToString([]byte("u:" + password))} {
			if strings.Contains(text, secret) {
				t.Errorf("a %d shows %q: %s", status, secret, text)
			}
		}
	}
}

func TestWhatIsNoRefusalIsPassedOnAsItIs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxScrubbed+1000)
	for name, test := range map[string]struct {
		status int
		bare   bool // without a credential
		body   string
	}{
		"content that has the secret in it":      {200, false, "a blob with " + canary + long},
		"a redirect":                             {307, false, canary},
		"a refusal of what carried nothing":      {404, true, long},
		"a refusal that repeats what nobody had": {403, true, canary},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, _ := newTransport(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !test.bare && r.Header.Get("Authorization") == "" {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					w.WriteHeader(401)
					return
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}), fixed{"": bob})
			req, err := http.NewRequestWithContext(t.Context(), "GET", manifest, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != test.status || string(got) != test.body {
				t.Errorf("%d, %d bytes of %d, %v", resp.StatusCode, len(got), len(test.body), err)
			}
		})
	}
}

func TestS16ARefusalThatRepeatsATokenAloneIsCleaned(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*registry{"a token": {}, "what Basic is made of": {basic: true}} {
		tr, _ := newTransport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/token" || !r.allowed(req) {
				r.ServeHTTP(w, req)
				return
			}
			_, value, _ := strings.Cut(req.Header.Get("Authorization"), " ")
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "not with <"+value+">")
		}), fixed{"": bob})
		req, err := http.NewRequestWithContext(t.Context(), "GET", manifest, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "not with <***>" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
