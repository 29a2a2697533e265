package torture

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The account that a Model with TokenLife knows.
const (
	User     = "alice"
	Password = "correct horse"
)

// admitted reports whether a request may be answered, and answers it where not:
// with TokenLife every one needs a token that has not expired when it begins.
func (m *Model) admitted(w http.ResponseWriter, r *http.Request) bool {
	if m.TokenLife == 0 {
		return true
	}
	if r.URL.Path == "/token" {
		m.issue(w, r)
		return false
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	m.mu.Lock()
	until, known := m.tokens[token]
	if known && time.Now().After(until) {
		m.expired++
	}
	m.mu.Unlock()
	if known && time.Now().Before(until) {
		return true
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="model",scope="repository:%s:pull,push"`, r.Host, repositoryOf(r.URL.Path)))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
	return false
}

func repositoryOf(path string) string {
	for _, x := range [][]string{uploadsExp.FindStringSubmatch(path), blobExp.FindStringSubmatch(path), manifestExp.FindStringSubmatch(path)} {
		if x != nil {
			return x[1]
		}
	}
	return ""
}

func (m *Model) issue(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	m.mu.Lock()
	known := user == User && password == m.password
	m.mu.Unlock()
	if !known {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	token := rand.Text()
	m.mu.Lock()
	if m.tokens == nil {
		m.tokens = map[string]time.Time{}
	}
	// Clocks differ, and keys are changed: it is good for less than is said.
	m.tokens[token] = time.Now().Add(m.TokenLife * 3 / 5)
	m.issued++
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"token":%q,"expires_in":%d}`, token, int(m.TokenLife/time.Second))
}

// Tokens returns how many tokens were issued, and how many requests came with
// one that had expired.
func (m *Model) Tokens() (issued, expired int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.issued, m.expired
}
