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
