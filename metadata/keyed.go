package metadata

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// forgetAtOnce is how many records are deleted side by side: they share fsyncs.
const forgetAtOnce = 64

type keyedRecord struct {
	By string `json:"by"` // fingerprint of the secret
}

// KeyedBy says by which secret, named by a fingerprint, the owners of all
// sources are made from now on. Sources of owners that another secret made are
// deleted: nobody can ask for them any more, and whoever has that secret could
// test guesses against them. It reports whether the secret is another one.
func (db *DB) KeyedBy(ctx context.Context, fingerprint string) (changed bool, err error) {
	key := makeKey("keyed")
	var k keyedRecord
	_, known, err := db.fact(ctx, key, &k)
	if err != nil {
		return false, fmt.Errorf("which secret keys the sources: %w", err)
	}
	if known && k.By == fingerprint {
		return false, nil
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(forgetAtOnce)
	for entry, err := range db.KV.Scan(ctx, makeKey("source")) {
		if err != nil {
			return false, fmt.Errorf("list sources: %w", err)
		}
		group.Go(func() error { return db.remove(groupCtx, entry.Key) })
	}
	if err := group.Wait(); err != nil {
		return false, fmt.Errorf("forget sources of another secret: %w", err)
	}
	// Last, so that a crash before it begins again.
	if err := db.put(ctx, key, keyedRecord{By: fingerprint}, nil); err != nil {
		return false, fmt.Errorf("which secret keys the sources: %w", err)
	}
	return known, nil
}
