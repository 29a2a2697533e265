package upstreamtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Auth makes a Registry ask who is there.
type Auth struct {
	Username, Password string
	// Bearer asks for tokens of the end-point /token of the same handler, by GET
	// with Basic or by POST with RefreshToken; otherwise Basic is asked for.
	Bearer       bool
	RefreshToken string
	// TTL is how long a token lives; 0: one minute.
	TTL time.Duration
	// Realm is what the challenge names; "": /token at the request's own host.
	Realm string
	// Refuse makes the token end-point answer 401 when it reports true for one
	// of the scopes asked for.
	Refuse func(scope string) bool
}

type token struct {
	until  time.Time
	scopes []string
}

// authorised answers 401 or 403 itself when it reports false.
func (r *Registry) authorised(w http.ResponseWriter, req *http.Request) bool {
	a := r.Auth
	if a == nil {
		return true
	}
	if !a.Bearer {
		user, password, _ := req.BasicAuth()
		if user == a.Username && password == a.Password {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="upstreamtest"`)
		r.fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	}
	want := wanted(req)
	r.mu.Lock()
	t, ok := r.tokens[bearer(req)]
	ok = ok && time.Now().Before(t.until) && t.covers(want)
	r.mu.Unlock()
	if ok {
		return true
	}
	challenge := fmt.Sprintf(`Bearer realm=%q,service="upstreamtest"`, r.realm(req))
	if want != "" {
		challenge += fmt.Sprintf(`,scope=%q`, want)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	r.fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

func (r *Registry) realm(req *http.Request) string {
	switch {
	case r.Auth.Realm != "":
		return r.Auth.Realm
	case req.TLS != nil:
		return "https://" + req.Host + "/token"
	}
	return "http://" + req.Host + "/token"
}

// wanted is the scope that a request needs; "" when any token does.
func wanted(req *http.Request) string {
	for _, route := range routes {
		m := route.exp.FindStringSubmatch(req.URL.Path)
		if m == nil {
			continue
		}
		switch {
		case req.Method == http.MethodDelete && !strings.Contains(req.URL.Path, "/blobs/uploads/"):
			return "repository:" + m[1] + ":delete"
		case (req.Method == http.MethodGet || req.Method == http.MethodHead) && !strings.Contains(req.URL.Path, "/blobs/uploads/"):
			return "repository:" + m[1] + ":pull"
		}
		return "repository:" + m[1] + ":pull,push"
	}
	return ""
}

// covers reports whether the token has every action of a scope.
func (t token) covers(scope string) bool {
	if scope == "" {
		return true
	}
	cut := strings.LastIndex(scope, ":")
	for action := range strings.SplitSeq(scope[cut+1:], ",") {
		if !slices.ContainsFunc(t.scopes, func(have string) bool {
			at := strings.LastIndex(have, ":")
			return at >= 0 && have[:at] == scope[:cut] && slices.Contains(strings.Split(have[at+1:], ","), action)
		}) {
			return false
		}
	}
	return true
}

// mayPull reports whether the request's token covers the source of a mount; it
// needs r.mu.
func (r *Registry) mayPull(req *http.Request, name string) bool {
	return r.Auth == nil || !r.Auth.Bearer || r.tokens[bearer(req)].covers("repository:"+name+":pull")
}

func bearer(req *http.Request) string {
	value, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	return value
}

// token is the token end-point, GET and OAuth2 POST.
func (r *Registry) token(w http.ResponseWriter, req *http.Request) {
	a := r.Auth
	var known bool
	if req.Method == http.MethodPost {
		known = a.RefreshToken != "" && req.PostFormValue("refresh_token") == a.RefreshToken
	} else {
		user, password, _ := req.BasicAuth()
		known = user == a.Username && password == a.Password
	}
	var scopes []string
	for _, s := range append(req.URL.Query()["scope"], req.PostForm["scope"]...) {
		scopes = append(scopes, strings.Fields(s)...)
	}
	if !known || a.Refuse != nil && slices.ContainsFunc(scopes, a.Refuse) {
		r.fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "no token for you")
		return
	}
	ttl := a.TTL
	if ttl == 0 {
		ttl = time.Minute
	}
	r.mu.Lock()
	r.issued++
	name := fmt.Sprintf("token-%d", r.issued)
	if r.tokens == nil {
		r.tokens = map[string]token{}
	}
	r.tokens[name] = token{time.Now().Add(ttl), scopes}
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": name, "access_token": name, "expires_in": int(ttl.Seconds())})
}
