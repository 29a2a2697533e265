package upstreamtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends one request to the fake and returns status, header and body.
func ask(t *testing.T, r *Registry, method, url, authorization, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://r.test"+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := r.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// tokenFor fetches a token with the password.
func tokenFor(t *testing.T, r *Registry, scopes ...string) string {
	t.Helper()
	status, _, body := ask(t, r, "GET", "/token?service=upstreamtest&scope="+strings.Join(scopes, "&scope="), "Basic dTpw", "")
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(body), &answer); status != 200 || err != nil || answer.Token == "" {
		t.Fatalf("token: %d %s", status, body)
	}
	return "Bearer " + answer.Token
}

func TestBasicIsAskedForAndTaken(t *testing.T) {
	t.Parallel()
	r := &Registry{Auth: &Auth{Username: "u", Password: "p"}}
	status, header, _ := ask(t, r, "GET", "/v2/", "", "")
	if status != 401 || !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("without: %d %v", status, header)
	}
	if status, _, _ := ask(t, r, "GET", "/v2/", "Basic dTpw", ""); status != 200 {
		t.Errorf("with: %d", status)
	}
}

func TestTokensHonourScopeAndTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &Registry{Auth: &Auth{Username: "u", Password: "p", Bearer: true, RefreshToken: "fresh", TTL: 5 * time.Second,
			Refuse: func(scope string) bool { return strings.Contains(scope, ":secret:") }}}
		d := r.AddBlob("base", []byte("blob"))
		start := "/v2/app/blobs/uploads/"
		_, header, _ := ask(t, r, "POST", start, "", "")
		if want := `Bearer realm="http://r.test/token",service="upstreamtest",scope="repository:app:pull,push"`; header.Get("WWW-Authenticate") != want {
			t.Errorf("challenge %s", header.Get("WWW-Authenticate"))
		}
		push, both := tokenFor(t, r, "repository:app:pull,push"), tokenFor(t, r, "repository:app:pull,push", "repository:base:pull")
		mount := fmt.Sprintf("%s?mount=%s&from=base", start, d)
		for _, c := range []struct {
			method, url, token string
			want               int
		}{
			{"POST", start, tokenFor(t, r, "repository:app:pull"), 401}, {"POST", start, push, 202}, {"POST", start, "Bearer made-up", 401},
			{"POST", mount, push, 202}, {"POST", mount, both, 201}, {"DELETE", "/v2/app/blobs/" + d.String(), push, 401},
			{"GET", "/token?scope=repository:secret:pull", "Basic dTpw", 401}, {"GET", "/token", "Basic eDp5", 401},
		} {
			if status, _, body := ask(t, r, c.method, c.url, c.token, ""); status != c.want {
				t.Errorf("%s %s: %d %s, want %d", c.method, c.url, status, body, c.want)
			}
		}
		if status, _, _ := ask(t, r, "POST", "/token", "", "grant_type=refresh_token&refresh_token=fresh&scope=repository:app:pull"); status != 200 {
			t.Errorf("refresh token: %d", status)
		}
		<-time.After(6 * time.Second)
		if status, _, _ := ask(t, r, "POST", start, push, ""); status != 401 {
			t.Errorf("an old token: %d, want 401", status)
		}
	})
}

func TestAManifestNeedsItsBlobs(t *testing.T) {
	t.Parallel()
	r := &Registry{}
	d := r.AddBlob("app", []byte("blob"))
	raw := fmt.Sprintf(`{"layers":[{"digest":%q}]}`, d)
	if status, _, body := ask(t, r, "PUT", "/v2/app/manifests/v1", "", raw); status != 201 {
		t.Errorf("complete: %d %s", status, body)
	}
	r.Forget(d)
	if status, _, body := ask(t, r, "PUT", "/v2/app/manifests/v2", "", raw); status != 404 || !strings.Contains(body, "MANIFEST_BLOB_UNKNOWN") {
		t.Errorf("incomplete: %d %s", status, body)
	}
	if status, _, _ := ask(t, r, "PUT", "/v2/app/manifests/v3", "", strings.Replace(raw, "}]", `,"urls":["https://x.test"]}]`, 1)); status != 201 {
		t.Errorf("a foreign layer: %d", status)
	}
}

func TestAWrongDigestIsRefused(t *testing.T) {
	t.Parallel()
	r := &Registry{}
	_, header, _ := ask(t, r, "POST", "/v2/app/blobs/uploads/", "", "")
	d := "sha256:" + strings.Repeat("0", 64)
	if status, _, body := ask(t, r, "PUT", header.Get("Location")+"?digest="+d, "", "blob"); status != 400 || !strings.Contains(body, "DIGEST_INVALID") {
		t.Errorf("%d %s", status, body)
	}
	if status, _, _ := ask(t, r, "PUT", "/v2/app/manifests/"+d, "", "{}"); status != 400 {
		t.Errorf("manifest: %d", status)
	}
}
