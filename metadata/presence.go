package metadata

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Evidence says how it is known that an upstream holds something. Only the
// upstream's own answers count, never a client's claim (trust S22).
type Evidence string

// The kinds of evidence, each an answer of the upstream.
const (
	Uploaded Evidence = "uploaded" // it took our upload
	Mounted  Evidence = "mounted"  // it answered a mount with 201
	Seen     Evidence = "head"     // it answered a HEAD or GET
	Named    Evidence = "manifest" // it took a manifest that names the digest
	Deleted  Evidence = "deleted"  // it deleted the digest: evidence of absence
)

// presenceFresh is the age below which the same evidence is not written again.
const presenceFresh = time.Minute

// Presence is the last evidence that a repository upstream holds a digest. How
// old it may be is for the reader to decide.
type Presence struct {
	When time.Time `json:"when"` // UTC
	How  Evidence  `json:"how"`
	Size int64     `json:"size"` // bytes; negative when unknown
}

// SetPresence remembers that repo holds d, size bytes long (negative: unknown).
// Repeating evidence less than a minute old writes nothing.
func (db *DB) SetPresence(ctx context.Context, repo oci.Repo, d digest.Digest, how Evidence, size int64) error {
	key := presenceKey(repo, d)
	p := Presence{When: db.now(), How: how, Size: size}
	var known Presence
	_, ok, err := db.fact(ctx, key, &known)
	age := p.When.Sub(known.When)
	// A clock that was set back makes the age negative: write, or the record
	// would look fresh for as long as the clock is behind.
	if err == nil && (!ok || known.How != how || known.Size != size || age < 0 || age >= presenceFresh) {
		err = db.put(ctx, key, p, nil)
	}
	if err != nil {
		return fmt.Errorf("remember that %s holds %s: %w", repo, d, err)
	}
	return nil
}

// Presence returns the last evidence that repo holds d, if there is any. It
// costs one read.
func (db *DB) Presence(ctx context.Context, repo oci.Repo, d digest.Digest) (Presence, bool, error) {
	var p Presence
	_, ok, err := db.fact(ctx, presenceKey(repo, d), &p)
	if err != nil {
		return Presence{}, false, fmt.Errorf("whether %s holds %s: %w", repo, d, err)
	}
	if !ok {
		return Presence{}, false, nil
	}
	return p, true, nil
}

// Knows reports whether anything is remembered of what repo holds. It costs one
// read.
func (db *DB) Knows(ctx context.Context, repo oci.Repo) (bool, error) {
	for _, err := range db.KV.Scan(ctx, makeKey("presence", repo.Host, repo.Name)) {
		if err != nil {
			return false, fmt.Errorf("whether anything is known of %s: %w", repo, err)
		}
		return true, nil
	}
	return false, nil
}

// ForgetPresence forgets that repo holds d, for instance since the upstream
// says that it does not. Other repositories are not affected.
func (db *DB) ForgetPresence(ctx context.Context, repo oci.Repo, d digest.Digest) error {
	if err := db.remove(ctx, presenceKey(repo, d)); err != nil {
		return fmt.Errorf("forget that %s holds %s: %w", repo, d, err)
	}
	return nil
}

// ForgetRepo forgets all that is known about what repo holds upstream.
func (db *DB) ForgetRepo(ctx context.Context, repo oci.Repo) error {
	if err := db.removeAll(ctx, makeKey("presence", repo.Host, repo.Name)); err != nil {
		return fmt.Errorf("forget what %s holds: %w", repo, err)
	}
	return nil
}

func presenceKey(repo oci.Repo, d digest.Digest) string {
	return makeKey("presence", repo.Host, repo.Name, d.String())
}
