package proxy

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"

	"pushproxy/authinject"
)

const (
	// verifiedFor is how long a password that was right is taken without bcrypt,
	// which takes tens of milliseconds for each of a push's many requests.
	verifiedFor = 5 * time.Minute
	maxVerified = 1024
	// hashesAtOnce bounds the processors that guesses can keep busy.
	hashesAtOnce = 2
	maxHtpasswd  = 1 << 20
)

// Accounts are the user names and bcrypt hashes of an htpasswd file, which is
// read again when it changes. Make it with OpenAccounts.
type Accounts struct {
	file string
	key  [32]byte
	slot chan struct{}

	mu       sync.Mutex
	info     fs.FileInfo
	hashes   map[string][]byte
	nobody   []byte // compared with where there is no such user, so that the time tells nothing
	verified map[[32]byte]time.Time
}

// OpenAccounts reads an htpasswd file. Its error says which line cannot be used,
// without showing it.
func OpenAccounts(file string) (*Accounts, error) {
	a := &Accounts{file: file, slot: make(chan struct{}, hashesAtOnce), verified: map[[32]byte]time.Time{}}
	// It never fails (crypto/rand).
	_, _ = rand.Read(a.key[:])
	return a, a.load()
}

func (a *Accounts) load() error {
	info, err := os.Stat(a.file)
	if err != nil {
		return err
	}
	if a.info != nil && os.SameFile(a.info, info) && a.info.ModTime().Equal(info.ModTime()) && a.info.Size() == info.Size() {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular() || info.Size() > maxHtpasswd:
		return fmt.Errorf("%s is not an htpasswd file", a.file)
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, who could let anybody in; make it yours", a.file, st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by other users (mode %04o); run: chmod go-w %s", a.file, info.Mode().Perm(), a.file)
	}
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return err
	}
	hashes, err := parseHtpasswd(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", a.file, err)
	}
	cost := bcrypt.DefaultCost
	for _, hash := range hashes {
		// They were looked at when they were read.
		c, _ := bcrypt.Cost(hash)
		cost = max(cost, c)
	}
	nobody, err := bcrypt.GenerateFromPassword(a.key[:], cost)
	if err != nil {
		return err
	}
	a.info, a.hashes, a.nobody = info, hashes, nobody
	return nil
}

// parseHtpasswd reads lines of name:bcrypt. Comments and empty lines are fine.
func parseHtpasswd(raw []byte) (map[string][]byte, error) {
	hashes := map[string][]byte{}
	for i, line := range bytes.Split(raw, []byte("\n")) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(text, ":")
		if !ValidPrincipal(name) || name == Local {
			return nil, fmt.Errorf("line %d: a user name is 1 to 64 lower-case letters, digits, dots, dashes and underscores, and not %q or %q", i+1, Local, given)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("line %d: the hash is not bcrypt; make it with: htpasswd -B", i+1)
		}
		if _, twice := hashes[name]; twice {
			return nil, fmt.Errorf("line %d: the user name is there twice", i+1)
		}
		hashes[name] = []byte(hash)
	}
	return hashes, nil
}

// verify checks a password. guess is asked before the work of bcrypt is done,
// and its error is returned; a password that was right lately asks nothing.
func (a *Accounts) verify(ctx context.Context, user string, password authinject.Secret, guess func() error) (bool, error) {
	a.mu.Lock()
	err := a.load()
	hash, known := a.hashes[user]
	nobody := a.nobody
	key := a.cacheKey(user, password, hash)
	until, cached := a.verified[key]
	a.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("the accounts cannot be read: %w", err)
	}
	if known && cached && time.Now().Before(until) {
		return true, nil
	}
	if !known {
		hash = nobody
	}
	if err := guess(); err != nil {
		return false, err
	}
	select {
	case a.slot <- struct{}{}:
		defer func() { <-a.slot }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	err = bcrypt.CompareHashAndPassword(hash, []byte(password.Reveal()))
	if !known || errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) || errors.Is(err, bcrypt.ErrPasswordTooLong) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	a.remember(key)
	return true, nil
}

func (a *Accounts) remember(key [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verified) >= maxVerified {
		clear(a.verified)
	}
	a.verified[key] = time.Now().Add(verifiedFor)
}

// cacheKey changes with the hash, so that a changed password counts at once.
func (a *Accounts) cacheKey(user string, password authinject.Secret, hash []byte) [32]byte {
	mac := hmac.New(sha256.New, a.key[:])
	for _, field := range []string{user, password.Reveal(), string(hash)} {
		fmt.Fprintf(mac, "%d:%s", len(field), field)
	}
	return [32]byte(mac.Sum(nil))
}
