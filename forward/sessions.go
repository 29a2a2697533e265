package forward

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

const (
	// keptFor is how long an upload that broke off is worth going on with:
	// upstreams keep it for hours at least.
	keptFor = time.Hour
	// lastingSize is the least size, in bytes, of a blob whose upload is gone on
	// with after a restart too: below, the blob is cheaper than the record.
	lastingSize = 16 << 20
)

// sessions are uploads that broke off, for the next attempt to go on with.
type sessions struct {
	mu   sync.Mutex
	kept map[sessionKey]keptSession
}

type sessionKey struct {
	owner metadata.Owner
	blobKey
}

type keptSession struct {
	upload *upstream.Upload
	until  time.Time
}

func (s *sessions) put(key sessionKey, u *upstream.Upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for k, old := range s.kept {
		if now.After(old.until) {
			delete(s.kept, k)
		}
	}
	if s.kept == nil {
		s.kept = map[sessionKey]keptSession{}
	}
	s.kept[key] = keptSession{u, now.Add(keptFor)}
}

func (s *sessions) take(key sessionKey) *upstream.Upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.kept[key]
	delete(s.kept, key)
	if !ok || time.Now().After(k.until) {
		return nil
	}
	return k.upload
}

func (b *blob) sessionKey() sessionKey { return sessionKey{b.owner, blobKey{b.repo, b.Digest}} }

// resume returns an upload of the blob that broke off, of this process or an
// earlier one; nil: there is none.
func (b *blob) resume(ctx context.Context) *upstream.Upload {
	if u := b.f.sessions.take(b.sessionKey()); u != nil || b.f.Seal == nil || b.Size < lastingSize {
		return u
	}
	s, ok, err := b.f.meta.Session(ctx, b.owner, b.repo, b.Digest)
	if err != nil || !ok || time.Since(s.When) > keptFor {
		return nil
	}
	token, err := unseal(b.f.Seal, s.Sealed, b.sealedFor())
	if err != nil {
		return nil
	}
	u, err := b.t.Client.Reopen(b.repo, b.Digest, string(token))
	if err != nil {
		return nil
	}
	return u
}

// begun remembers the session of a token before it is used, where that pays.
func (b *blob) begun(ctx context.Context, token string) {
	if b.f.Seal == nil || b.Size < lastingSize || token == "" {
		return
	}
	// What is not remembered costs bytes after a restart, nothing else.
	_ = b.f.meta.SetSession(ctx, b.owner, b.repo, b.Digest, seal(b.f.Seal, []byte(token), b.sealedFor()))
}

// brokeOff reports whether an upload that ended with err, in ctx, may go on
// where it was.
func brokeOff(ctx context.Context, err error) bool {
	if errors.Is(err, blobcache.ErrDamaged) || errors.Is(err, blobcache.ErrUnknown) || errors.Is(err, blobcache.ErrEnded) {
		return false
	}
	return ctx.Err() == nil && oci.AsError(err).Status/100 == 5 || errors.Is(context.Cause(ctx), ErrClosed)
}

// ended decides what becomes of the session after an upload: one that broke off
// is kept for the next attempt.
func (b *blob) ended(ctx context.Context, err error) {
	switch {
	case err != nil && brokeOff(ctx, err) && b.session != nil && b.session.Token() != "":
		b.f.sessions.put(b.sessionKey(), b.session)
		b.session = nil
	case b.f.Seal != nil && b.Size >= lastingSize:
		_ = b.f.meta.DropSession(context.WithoutCancel(ctx), b.owner, b.repo, b.Digest)
	}
}

// byStream has the blob's stream end as the blob. Its session is remembered as
// soon as there is one: the digest, which it is found by, is known by now.
func (b *blob) byStream(ctx context.Context) error {
	select {
	case <-b.stream.opened:
		if b.stream.owner == b.owner {
			b.begun(ctx, b.stream.token)
		}
	case <-b.stream.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return b.stream.finish(ctx, b.owner, b.Digest)
}

// rescue makes the session of a stream that broke off the blob's.
func (b *blob) rescue() {
	if b.stream == nil || !b.stream.ended() || b.stream.owner != b.owner {
		return
	}
	session := b.stream.take()
	if session == nil {
		return
	}
	b.cancelSession()
	session.Digest = b.Digest
	b.session = session
}

// take returns the session to the only one who may use it from now on, or nil.
func (s *stream) take() *upstream.Upload {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	session := s.session
	s.session = nil
	return session
}

// giveBack is take undone.
func (s *stream) giveBack(session *upstream.Upload) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.session = session
}

// errand is what the stream's requests are made for: its blob has no digest yet.
func (s *stream) errand() errandOf { return errandOf{upload: s.upload} }

// abandon gives the session back, unless somebody took it.
func (s *stream) abandon() {
	if session := s.take(); session != nil {
		s.f.abandon(s.errand(), session)
	}
}

// sealedFor binds what is sealed to its blob.
func (b *blob) sealedFor() []byte {
	return []byte(b.owner.String() + " " + b.repo.String() + " " + b.Digest.String())
}

func seal(aead cipher.AEAD, text, about []byte) []byte {
	nonce := make([]byte, aead.NonceSize())
	// It never fails (crypto/rand).
	_, _ = rand.Read(nonce)
	return aead.Seal(nonce, nonce, text, about)
}

var errSealed = errors.New("forward: not sealed by this installation")

func unseal(aead cipher.AEAD, sealed, about []byte) ([]byte, error) {
	n := aead.NonceSize()
	if len(sealed) < n {
		return nil, errSealed
	}
	return aead.Open(nil, sealed[:n], sealed[n:], about)
}
