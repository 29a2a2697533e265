package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"pushproxy/authinject"
)

const (
	// tokenPrefix begins every token, so that a token that is found somewhere is
	// known for what it is.
	tokenPrefix = "ppx_"
	// tokenBytes is how much of a token is random.
	tokenBytes = 32
	// MaxTokens is how many tokens there may be at a time.
	MaxTokens = 1000
)

// Token is what is kept of a token: not itself.
type Token struct {
	ID        string    `json:"id"`   // names it for revocation
	Name      string    `json:"name"` // for people
	Principal string    `json:"principal"`
	Hash      string    `json:"hash"` // SHA-256, hexadecimal
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires,omitzero"` // zero: never
	Scope
}

// Expired reports whether the token's time is over.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// caller is who comes with the token.
func (t Token) caller(user string) Caller {
	c := Caller{Principal: t.Principal, Token: t.ID, User: user}
	if t.Restricts() {
		c.Principal += separator + t.ID
		c.Scopes = []Scope{t.Scope}
	}
	return c
}

// Tokens are the tokens of one installation, in a file that only its owner can
// read. Other processes may change it at any time: it is looked at for every
// request. The file holds no token, only what proves one.
type Tokens struct {
	// File is its path; one that is missing holds none.
	File string

	mu   sync.Mutex
	info fs.FileInfo
	held []Token
}

// ErrToken is matched by errors about a token that cannot be made or is not there.
var ErrToken = errors.New("token")

// verify returns the token that the secret is, unless it has expired. The time
// that it takes tells nothing about the tokens there are.
func (s *Tokens) verify(secret authinject.Secret) (Token, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return Token{}, false, fmt.Errorf("the tokens cannot be read: %w", err)
	}
	hash, found := []byte(hashToken(secret)), -1
	for i := range s.held {
		if subtle.ConstantTimeCompare([]byte(s.held[i].Hash), hash) == 1 {
			found = i
		}
	}
	if found < 0 || s.held[found].Expired(time.Now()) {
		return Token{}, false, nil
	}
	return s.held[found], true, nil
}

// load reads the file again if it is another one than before; it needs mu.
func (s *Tokens) load() error {
	info, err := os.Lstat(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		s.info, s.held = nil, nil
		return nil
	}
	if err != nil {
		return err
	}
	// Every change is a new file, so one that is the same has not changed.
	if s.info != nil && os.SameFile(s.info, info) && s.info.ModTime().Equal(info.ModTime()) && s.info.Size() == info.Size() {
		return nil
	}
	if err := Private(s.File); err != nil {
		return err
	}
	raw, err := os.ReadFile(s.File)
	if err != nil {
		return err
	}
	var held []Token
	if err := json.Unmarshal(raw, &held); err != nil {
		return fmt.Errorf("%s does not hold tokens (%w); restore it, or delete it and make new ones", s.File, err)
	}
	s.info, s.held = info, held
	return nil
}

// List returns all tokens, also those that have expired, oldest first.
func (s *Tokens) List() ([]Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return nil, err
	}
	return slices.Clone(s.held), nil
}

// nameExp is what principals and tokens may be called.
var nameExp = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ValidPrincipal reports whether a principal can have this name.
func ValidPrincipal(name string) bool { return nameExp.MatchString(name) && name != given }

// Create makes a token of a principal, for a time (0: for ever) and a scope, and
// returns its secret, which is kept nowhere. The error of a name, principal, time
// or scope that cannot be is ErrToken.
func (s *Tokens) Create(name, principal string, life time.Duration, scope Scope) (Token, authinject.Secret, error) {
	if !nameExp.MatchString(name) || !ValidPrincipal(principal) {
		return Token{}, "", fmt.Errorf("%w: names are 1 to 64 lower-case letters, digits, dots, dashes and underscores", ErrToken)
	}
	if life < 0 {
		return Token{}, "", fmt.Errorf("%w: it would have expired %s ago; a time ahead is such as 24h", ErrToken, -life)
	}
	if err := scope.Validate(); err != nil {
		return Token{}, "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	raw := make([]byte, tokenBytes+8)
	// It never fails (crypto/rand).
	_, _ = rand.Read(raw)
	secret := authinject.Secret(tokenPrefix + base64.RawURLEncoding.EncodeToString(raw[:tokenBytes]))
	now := time.Now().UTC().Truncate(time.Second)
	t := Token{ID: hex.EncodeToString(raw[tokenBytes:]), Name: name, Principal: principal, Hash: hashToken(secret), Created: now, Scope: scope}
	if life > 0 {
		t.Expires = now.Add(life)
	}
	err := s.change(func(held []Token) ([]Token, error) {
		if slices.ContainsFunc(held, func(t Token) bool { return t.Name == name }) {
			return nil, fmt.Errorf("%w: there is one with the name %s already; revoke it first, or choose another name", ErrToken, name)
		}
		if len(held) >= MaxTokens {
			return nil, fmt.Errorf("%w: there are %d already; revoke some", ErrToken, MaxTokens)
		}
		return append(held, t), nil
	})
	return t, secret, err
}

// Revoke removes the token with the name or id. The error of one that is not
// there is ErrToken.
func (s *Tokens) Revoke(name string) (Token, error) {
	var revoked Token
	err := s.change(func(held []Token) ([]Token, error) {
		i := slices.IndexFunc(held, func(t Token) bool { return t.Name == name || t.ID == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: there is none with the name or id %s; pushproxy token list shows those there are", ErrToken, name)
		}
		revoked = held[i]
		return slices.Delete(held, i, i+1), nil
	})
	return revoked, err
}

// change replaces the file, one process after the other.
func (s *Tokens) change(edit func([]Token) ([]Token, error)) error {
	lock, err := os.OpenFile(s.File+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	// Closing it gives the lock back.
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(); err != nil {
		return err
	}
	held, err := edit(slices.Clone(s.held))
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(held, "", "  ")
	if err != nil {
		return err
	}
	s.info = nil
	return replaceFile(s.File, append(raw, '\n'))
}

// replaceFile writes a file for its owner only, all of it or nothing.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func hashToken(secret authinject.Secret) string {
	sum := sha256.Sum256([]byte(secret.Reveal()))
	return hex.EncodeToString(sum[:])
}

// Private reports why a file of this installation may not be relied on: it is no
// regular file, belongs to somebody else, or others can read or write it.
func Private(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file; remove it", path)
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d and pushproxy runs as user %d; make it yours, or remove it", path, st.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to other users (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return nil
}
