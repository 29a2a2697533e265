package metadata

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// errNobody refuses grants without a principal: an empty name is a caller that
// was never identified.
var errNobody = errors.New("a grant needs a principal")

type grantRecord struct {
	When time.Time `json:"when"` // of the first grant
}

// Grant remembers that principal has had the bytes of d, and may therefore see
// d (design section 4). Granting again writes nothing.
func (db *DB) Grant(ctx context.Context, principal string, d digest.Digest) error {
	if principal == "" {
		return errNobody
	}
	key := grantKey(principal, d)
	var g grantRecord
	_, ok, err := db.fact(ctx, key, &g)
	if err == nil && !ok {
		err = db.put(ctx, key, grantRecord{When: db.now()}, nil)
	}
	if err != nil {
		return fmt.Errorf("grant %s: %w", d, err)
	}
	return nil
}

// Granted reports whether principal may see d. It costs one read, the same for
// a digest that others were granted as for one that nobody has.
func (db *DB) Granted(ctx context.Context, principal string, d digest.Digest) (bool, error) {
	if principal == "" {
		return false, nil
	}
	var g grantRecord
	_, ok, err := db.fact(ctx, grantKey(principal, d), &g)
	if err != nil {
		return false, fmt.Errorf("grant of %s: %w", d, err)
	}
	return ok, nil
}

// Revoke takes d from principal. Others who were granted d keep it.
func (db *DB) Revoke(ctx context.Context, principal string, d digest.Digest) error {
	if err := db.remove(ctx, grantKey(principal, d)); err != nil {
		return fmt.Errorf("revoke %s: %w", d, err)
	}
	return nil
}

// RevokeAll takes everything from principal. Grants given meanwhile may stay.
func (db *DB) RevokeAll(ctx context.Context, principal string) error {
	if err := db.removeAll(ctx, makeKey("grant", principal)); err != nil {
		return fmt.Errorf("revoke all grants: %w", err)
	}
	return nil
}

func grantKey(principal string, d digest.Digest) string {
	return makeKey("grant", principal, d.String())
}
