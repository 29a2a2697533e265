package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Session is an upload upstream that was begun and not finished. Where it goes
// on is a secret, since upstreams sign it: it is stored sealed.
type Session struct {
	When   time.Time `json:"when"` // UTC; set by SetSession
	Sealed []byte    `json:"sealed"`
}

// SetSession remembers the session in which owner uploads d to repo.
func (db *DB) SetSession(ctx context.Context, owner Owner, repo oci.Repo, d digest.Digest, sealed []byte) error {
	if err := db.put(ctx, sessionKey(owner, repo, d), Session{When: db.now(), Sealed: sealed}, nil); err != nil {
		return fmt.Errorf("remember the upload of %s to %s: %w", d, repo, err)
	}
	return nil
}

// Session returns the session in which owner uploads d to repo, if there is one.
func (db *DB) Session(ctx context.Context, owner Owner, repo oci.Repo, d digest.Digest) (Session, bool, error) {
	var s Session
	_, ok, err := db.fact(ctx, sessionKey(owner, repo, d), &s)
	if err != nil {
		return Session{}, false, fmt.Errorf("the upload of %s to %s: %w", d, repo, err)
	}
	return s, ok, nil
}

// DropSession forgets it; that there is none is fine.
func (db *DB) DropSession(ctx context.Context, owner Owner, repo oci.Repo, d digest.Digest) error {
	if err := db.remove(ctx, sessionKey(owner, repo, d)); err != nil {
		return fmt.Errorf("forget the upload of %s to %s: %w", d, repo, err)
	}
	return nil
}

func sessionKey(owner Owner, repo oci.Repo, d digest.Digest) string {
	return makeKey("session", owner.String(), repo.Host, repo.Name, d.String())
}
