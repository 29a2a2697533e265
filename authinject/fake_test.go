package authinject

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// canary is the secret that must never be seen where it should not be.
const canary = "c4n4ry-s3cret"

// wire is a network in memory: it takes each request to the handler of its
// origin and remembers it. Origins without a handler cannot be reached, but
// that somebody tried is remembered too.
type wire struct {
	hosts map[string]http.Handler // by originOf

	mu   sync.Mutex
	seen []sighting
}

type sighting struct{ origin, line, auth, body, cookie string }

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		if err := req.Body.Close(); err != nil {
			return nil, err
		}
	}
	origin := originOf(req.URL)
	w.mu.Lock()
	w.seen = append(w.seen, sighting{
		origin: origin, line: req.Method + " " + req.URL.RequestURI(),
		auth: req.Header.Get("Authorization"), body: string(body), cookie: req.Header.Get("Cookie"),
	})
	w.mu.Unlock()
	handler, ok := w.hosts[origin]
	if !ok {
		return nil, fmt.Errorf("dial %s: no route", origin)
	}
	served := req.Clone(req.Context())
	// As http.Transport does.
	served.Host = cmp(req.Host, req.URL.Host)
	served.Body = io.NopCloser(bytes.NewReader(body))
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, served)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp := rec.Result()
	resp.Request = req
	return resp, nil
}

// slowTokens makes home's token server take its time.
func (w *wire) slowTokens(by time.Duration) {
	prompt := w.hosts[homeAt]
	w.hosts[homeAt] = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			time.Sleep(by)
		}
		prompt.ServeHTTP(rw, req)
	})
}

func (w *wire) requests() []sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// lines returns the requests to an origin as "METHOD path?query".
func (w *wire) lines(origin string) []string {
	var lines []string
	for _, s := range w.requests() {
		if s.origin == origin {
			lines = append(lines, s.line)
		}
	}
	return lines
}

// mustHoldSecretOnlyAt fails when the canary was sent to another origin, in
// any of the spellings that a leak could have.
func (w *wire) mustHoldSecretOnlyAt(t *testing.T, origins ...string) {
	t.Helper()
	for _, s := range w.requests() {
		all := s.auth + " " + s.body + " " + s.line + " " + s.cookie
		if !slices.Contains(origins, s.origin) && leaks(all) {
			t.Errorf("the credential was sent to %s with %q", s.origin, s.line)
		}
	}
}

// leaks reports whether text holds the canary, plain, encoded or in Basic.
func leaks(text string) bool {
	for word := range strings.FieldsSeq(text) {
		if raw, err := base64.StdEncoding.DecodeString(word); err == nil && bytes.Contains(raw, []byte(canary)) {
			return true
		}
	}
	return strings.Contains(text, canary) || strings.Contains(text, url.QueryEscape(canary)) ||
		strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(canary)))
}

// registry is a registry with its own token server at /token. Its fields
// describe how it behaves; the zero one takes user "bob" with the canary and
// gives tokens that live five minutes.
type registry struct {
	basic     bool          // asks for Basic instead of Bearer
	realm     string        // "" is https://registry.test/token
	life      time.Duration // how long its tokens really live
	sayLife   bool          // says so in expires_in
	password  string        // "" is the canary
	identity  string        // accepted refresh token
	noPost    int           // what it answers to OAuth2 POST, 0 serves it
	refuse    func(scopes []string) int
	downscope bool // grants the first scope only
	anonymous bool // gives tokens to everybody
	challenge string

	mu     sync.Mutex
	tokens map[string]grant
	count  int
}

type grant struct {
	scopes []string
	until  time.Time
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		r.serveToken(w, req)
		return
	}
	if r.allowed(req) {
		w.WriteHeader(http.StatusCreated)
		return
	}
	challenge := r.challenge
	if challenge == "" {
		challenge = `Bearer realm="` + cmp(r.realm, "https://registry.test/token") + `",service="registry.test",scope="made:up:*"`
		if r.basic {
			challenge = `Basic realm="registry"`
		}
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`)
}

func cmp(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (r *registry) allowed(req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.basic {
		user, password, _ := req.BasicAuth()
		return user == "bob" && password == cmp(r.password, canary)
	}
	bearer, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	g, ok := r.tokens[bearer]
	if !ok || !time.Now().Before(g.until) {
		return false
	}
	for _, scope := range wantOf(req, "registry.test").scopes() {
		name, actions, _ := strings.Cut(strings.TrimPrefix(scope, "repository:"), ":")
		if strings.Contains(scope, ":pull") && !slices.ContainsFunc(g.scopes, func(have string) bool {
			return have == "repository:"+name+":*" || strings.HasPrefix(have, "repository:"+name+":"+actions)
		}) && name == wantOf(req, "registry.test").repo.Name {
			return false
		}
	}
	return true
}

func (r *registry) serveToken(w http.ResponseWriter, req *http.Request) {
	scopes := req.URL.Query()["scope"]
	if req.Method == http.MethodPost {
		if r.noPost != 0 {
			w.WriteHeader(r.noPost)
			return
		}
		scopes = strings.Fields(req.PostFormValue("scope"))
		if req.PostFormValue("refresh_token") != r.identity || req.PostFormValue("grant_type") != "refresh_token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	} else if user, password, _ := req.BasicAuth(); !r.anonymous && (user != "bob" || password != cmp(r.password, canary)) {
		w.WriteHeader(http.StatusUnauthorized)
		// A server that repeats what it was told.
		_, _ = io.WriteString(w, "wrong password "+password)
		return
	}
	if r.refuse != nil {
		if status := r.refuse(scopes); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	if r.downscope && len(scopes) > 1 {
		scopes = scopes[:1]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	life := r.life
	if life == 0 {
		life = 5 * time.Minute
	}
	token := fmt.Sprintf("token-%d", r.count)
	if r.tokens == nil {
		r.tokens = map[string]grant{}
	}
	r.tokens[token] = grant{scopes: scopes, until: time.Now().Add(life)}
	answer := map[string]any{"token": token}
	if r.sayLife {
		answer["expires_in"] = life.Seconds()
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (r *registry) exchanges() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// revoke makes all tokens invalid.
func (r *registry) revoke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}
