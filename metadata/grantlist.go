package metadata

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Grant is a principal and a digest that it may see.
type Grant struct {
	Principal string
	Digest    digest.Digest
}

// Grants lists all grants, in no order that means anything. After an error
// nothing more is yielded.
func (db *DB) Grants(ctx context.Context) iter.Seq2[Grant, error] {
	return func(yield func(Grant, error) bool) {
		for entry, err := range db.KV.Scan(ctx, makeKey("grant")) {
			if err != nil {
				yield(Grant{}, fmt.Errorf("list grants: %w", err))
				return
			}
			var g grantRecord
			if _, err := decode(entry.Key, entry.Value, &g); err != nil {
				continue // damaged, and thereby none
			}
			last, err := lastField(entry.Key)
			if err != nil {
				continue
			}
			principal, err := lastField(strings.TrimSuffix(entry.Key, last+"/"))
			if err == nil && !yield(Grant{Principal: principal, Digest: digest.Digest(last)}, nil) {
				return
			}
		}
	}
}
