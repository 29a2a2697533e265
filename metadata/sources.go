package metadata

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// maxSources is how many repositories are remembered per owner and digest, as
// in docker (protocol A3).
const maxSources = 50

// AddSource remembers that o's credential has seen d in r. The newest source
// comes first; one already known moves to the front; the 51st is forgotten.
func (db *DB) AddSource(ctx context.Context, o Owner, d digest.Digest, r oci.Repo) error {
	return db.changeSources(ctx, o, d, func(sources []oci.Repo) []oci.Repo {
		if len(sources) > 0 && sources[0] == r {
			return sources
		}
		sources = append([]oci.Repo{r}, slices.DeleteFunc(sources, func(s oci.Repo) bool { return s == r })...)
		return sources[:min(len(sources), maxSources)]
	})
}

// DropSource forgets that d was seen in r by o's credential, for instance since
// a mount from there was refused. Not knowing it in the first place is fine.
func (db *DB) DropSource(ctx context.Context, o Owner, d digest.Digest, r oci.Repo) error {
	return db.changeSources(ctx, o, d, func(sources []oci.Repo) []oci.Repo {
		return slices.DeleteFunc(sources, func(s oci.Repo) bool { return s == r })
	})
}

// Sources returns the repositories of host where o's credential has seen d,
// newest first. What other owners have seen is never returned: a candidate's
// name reaches the upstream in from= and in a token's scope (trust S20).
func (db *DB) Sources(ctx context.Context, o Owner, d digest.Digest, host string) ([]oci.Repo, error) {
	var sources []oci.Repo
	_, ok, err := db.fact(ctx, sourceKey(o, d), &sources)
	if err != nil {
		return nil, fmt.Errorf("sources of %s: %w", d, err)
	}
	if !ok {
		return nil, nil
	}
	return slices.DeleteFunc(sources, func(s oci.Repo) bool { return s.Host != host }), nil
}

func (db *DB) changeSources(ctx context.Context, o Owner, d digest.Digest, change func([]oci.Repo) []oci.Repo) error {
	key := sourceKey(o, d)
	err := db.update(ctx, key, func(record []byte) ([]byte, error) {
		var sources []oci.Repo
		if _, err := decode(key, record, &sources); err != nil {
			// Absent, or damaged and thereby worthless: start anew.
			sources = nil
		}
		sources = change(sources)
		if len(sources) == 0 {
			return nil, nil
		}
		return encode(key, sources, nil)
	})
	if err != nil {
		return fmt.Errorf("remember where %s was seen: %w", d, err)
	}
	return nil
}

func sourceKey(o Owner, d digest.Digest) string { return makeKey("source", o.String(), d.String()) }

// Rank orders mount candidates for target as docker does (protocol A6): those
// with more leading path components in common first, and otherwise as given.
// The target itself and repositories of other hosts are left out. At most limit
// are returned; candidates is not changed.
func Rank(candidates []oci.Repo, target oci.Repo, limit int) []oci.Repo {
	ranked := slices.DeleteFunc(slices.Clone(candidates), func(r oci.Repo) bool {
		return r.Host != target.Host || r == target
	})
	slices.SortStableFunc(ranked, func(a, b oci.Repo) int {
		return likeness(b.Name, target.Name) - likeness(a.Name, target.Name)
	})
	return ranked[:min(len(ranked), max(limit, 0))]
}

// likeness counts the leading path components that two names have in common.
func likeness(a, b string) int {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	n := 0
	for n < len(as) && n < len(bs) && as[n] == bs[n] {
		n++
	}
	return n
}
