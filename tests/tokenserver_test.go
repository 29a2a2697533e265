package tests

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// tokenServer grants Bearer tokens that a distribution registry believes: by GET with Basic, and by OAuth2 POST with a
// password or a refresh token. A token carries only those of the asked scopes that the account may have.
type tokenServer struct {
	Config parts.Token
	life   time.Duration

	key *ecdsa.PrivateKey
	may func(user, repository, action string) bool

	mu    sync.Mutex
	asked []tokenRequest
}

// tokenRequest is one request for a token.
type tokenRequest struct {
	Method, User, Grant string
	Scopes              []string
	Granted             []string // "repository:NAME:ACTIONS"
	Status              int
}

// refreshToken is the identity token that the server takes for Alice's password.
const refreshToken = "alice-refresh-token"

// registryLeeway is what distribution adds to the end of a token's life; it is taken off here, so that lives are true.
const registryLeeway = time.Minute

// startTokenServer runs a token server whose tokens live for life; may says which account may do what.
func startTokenServer(t *testing.T, life time.Duration, may func(user, repository, action string) bool) *tokenServer {
	t.Helper()
	s := &tokenServer{life: life, key: newKey(t), may: may}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.Config = parts.Token{
		Realm: server.URL + "/token", Service: upstreamName, Issuer: "token.test",
		JWKSFile: writeFile(t, filepath.Join(t.TempDir(), "jwks.json"), s.jwks(t), 0o600),
	}
	return s
}

// requests returns what was asked so far.
func (s *tokenServer) requests() []tokenRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ask := tokenRequest{Method: r.Method, Status: http.StatusOK}
	_ = r.ParseForm()
	for _, scope := range r.Form["scope"] {
		ask.Scopes = append(ask.Scopes, strings.Fields(scope)...)
	}
	user, password, ok := r.BasicAuth()
	if r.Method == http.MethodPost {
		ask.Grant = r.PostForm.Get("grant_type")
		user, password, ok = r.PostForm.Get("username"), r.PostForm.Get("password"), true
		if ask.Grant == "refresh_token" && r.PostForm.Get("refresh_token") == refreshToken {
			user, password = parts.Alice().Name, parts.Alice().Password
		}
	}
	known := slices.ContainsFunc([]parts.User{parts.Alice(), parts.Bob()}, func(u parts.User) bool {
		return u.Name == user && u.Password == password
	})
	ask.User = user
	if ok && !known {
		ask.Status = http.StatusUnauthorized
	}
	access := s.grant(&ask, known)
	s.mu.Lock()
	s.asked = append(s.asked, ask)
	s.mu.Unlock()
	if ask.Status != http.StatusOK {
		http.Error(w, `{"details":"incorrect username or password"}`, ask.Status)
		return
	}
	s.answer(w, user, access)
}

func (s *tokenServer) grant(ask *tokenRequest, known bool) []map[string]any {
	access := []map[string]any{}
	for _, scope := range ask.Scopes {
		kind, rest, _ := strings.Cut(scope, ":")
		name, actions, _ := strings.Cut(rest, ":")
		granted := []string{}
		for action := range strings.SplitSeq(actions, ",") {
			if known && s.may(ask.User, name, action) {
				granted = append(granted, action)
			}
		}
		if len(granted) > 0 {
			access = append(access, map[string]any{"type": kind, "name": name, "actions": granted})
			ask.Granted = append(ask.Granted, kind+":"+name+":"+strings.Join(granted, ","))
		}
	}
	return access
}

func (s *tokenServer) answer(w http.ResponseWriter, user string, access []map[string]any) {
	now := time.Now()
	token, err := s.sign(map[string]any{
		"iss": s.Config.Issuer, "sub": user, "aud": s.Config.Service, "access": access, "jti": now.String(),
		"exp": now.Add(s.life - registryLeeway).Unix(), "nbf": now.Add(-2 * registryLeeway).Unix(), "iat": now.Unix(),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token": token, "access_token": token, "expires_in": int(s.life.Seconds()), "issued_at": now.UTC().Format(time.RFC3339),
	})
}

// sign makes a JSON Web Token with ES256.
func (s *tokenServer) sign(claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]string{"typ": "JWT", "alg": "ES256", "kid": "test"})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := b64(header) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	a.FillBytes(sig[:32])
	b.FillBytes(sig[32:])
	return signed + "." + b64(sig), nil
}

func (s *tokenServer) jwks(t *testing.T) string {
	t.Helper()
	point, err := s.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": "test", "use": "sig", "alg": "ES256", "x": b64(point[1:33]), "y": b64(point[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
