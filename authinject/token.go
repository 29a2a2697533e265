package authinject

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// defaultLife is how long a token lives whose server does not say (token
	// specification, "expires_in").
	defaultLife = 60 * time.Second
	// maxLife is the longest a token is kept, whatever its server says.
	maxLife = 12 * time.Hour
	// refusalLife is how long a refusal is remembered, so that the many
	// requests of one push do not hammer a token server that locks accounts.
	refusalLife = 10 * time.Second
	// exchangeTime bounds one token exchange with its retries.
	exchangeTime = 30 * time.Second
	// maxTokens is how many tokens are held before dead ones are swept.
	maxTokens = 1024
)

// tokenKey names a token: what it was got with, where, and for what. It is a
// hash, so a key reveals nothing.
type tokenKey string

func newTokenKey(c Credential, realm, service string, scopes []string) tokenKey {
	fp := c.fingerprint()
	sum := sha256.Sum256(lengthPrefixed(string(fp[:]), realm, service, scopeKey(scopes)))
	return tokenKey(sum[:])
}

// token is what a token server answered: a token, or a refusal.
type token struct {
	value   Secret
	until   time.Time // not used beyond: 80 % of its life
	refusal *refusal
}

// refusal is a token server's no. Its error is an *oci.Error.
type refusal struct {
	status int
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func isRefusal(err error) bool {
	var no *refusal
	return errors.As(err, &no)
}

// tokens holds the tokens of one registry in memory.
type tokens struct {
	now     func() time.Time
	flights singleflight.Group

	mu      sync.Mutex
	held    map[tokenKey]*token
	renewed map[tokenKey]*Secret // refresh tokens that a server replaced, by credential and realm
}

// cached returns the token under key while it may still be used.
func (ts *tokens) cached(key tokenKey) (*token, bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	tok, ok := ts.held[key]
	if !ok || !ts.now().Before(tok.until) {
		return nil, false
	}
	return tok, true
}

// get returns the token under key, calling fetch when there is none. However
// many callers wait for a key, fetch runs once, and goes on when the first of
// them gives up. fresh says that the token was fetched now. A refusal is
// returned as a *refusal.
func (ts *tokens) get(ctx context.Context, key tokenKey, fetch func(context.Context) (*token, error)) (tok *token, fresh bool, err error) {
	if tok, ok := ts.cached(key); ok {
		return tok, false, tok.asError()
	}
	done := ts.flights.DoChan(string(key), func() (any, error) {
		// A flight that ended between the look above and this one.
		if tok, ok := ts.cached(key); ok {
			return tok, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exchangeTime)
		defer cancel()
		tok, err := fetch(ctx)
		var no *refusal
		if errors.As(err, &no) {
			tok, err = &token{refusal: no, until: ts.now().Add(refusalLife)}, nil
		}
		if err != nil {
			return nil, err
		}
		ts.keep(key, tok)
		return tok, nil
	})
	select {
	case <-ctx.Done():
		return nil, false, ctx.Err()
	case res := <-done:
		if res.Err != nil {
			return nil, false, res.Err
		}
		tok = res.Val.(*token)
		return tok, true, tok.asError()
	}
}

// asError returns the refusal as an error, if it is one.
func (t *token) asError() error {
	if t.refusal != nil {
		return t.refusal
	}
	return nil
}

func (ts *tokens) keep(key tokenKey, tok *token) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.held) >= maxTokens {
		now := ts.now()
		for k, old := range ts.held {
			if !now.Before(old.until) {
				delete(ts.held, k)
			}
		}
		if len(ts.held) >= maxTokens {
			clear(ts.held)
		}
	}
	ts.held[key] = tok
}

// drop forgets tok, unless another has already taken its place.
func (ts *tokens) drop(key tokenKey, tok *token) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.held[key] == tok {
		delete(ts.held, key)
	}
}

// refreshToken returns the newest refresh token for a credential at a realm.
func (ts *tokens) refreshToken(c Credential, realm string) Secret {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if s, ok := ts.renewed[newTokenKey(c, realm, "refresh", nil)]; ok {
		return *s
	}
	return c.Identity
}

// renew remembers the refresh token that realm gave in exchange for another.
// It is never sent to another realm. The empty one forgets.
func (ts *tokens) renew(c Credential, realm string, s Secret) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	key := newTokenKey(c, realm, "refresh", nil)
	if s == "" {
		delete(ts.renewed, key)
		return
	}
	ts.renewed[key] = &s
}

// useUntil returns the end of a token's usable time: 80 % of its life, which
// counts from asked.
func useUntil(asked time.Time, life time.Duration) time.Time {
	return asked.Add(life * 4 / 5)
}
