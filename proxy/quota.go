package proxy

import (
	"context"
	"errors"
	"maps"
	"math"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

// kept is a blob that counts against a principal's quota.
type kept struct {
	size int64 // bytes
	turn int64 // grows with each time that it was counted
}

// Stored counts a blob of size bytes that a principal has, once.
func (l *Limits) Stored(principal string, d digest.Digest, size int64) {
	if l == nil || l.Bytes == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(principal)
	if u.blobs == nil {
		u.blobs = map[digest.Digest]kept{}
	}
	u.stored += size - u.blobs[d].size
	l.turns++
	u.blobs[d] = kept{size, l.turns}
}

// counted lists what counts.
func (l *Limits) counted() map[string]map[digest.Digest]kept {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]map[digest.Digest]kept{}
	for principal, u := range l.used {
		all[principal] = maps.Clone(u.blobs)
	}
	return all
}

// forget takes a blob from a quota, unless it was counted again since then.
func (l *Limits) forget(principal string, d digest.Digest, then kept) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(principal)
	if u.blobs[d] == then {
		u.stored -= then.size
		delete(u.blobs, d)
	}
	l.tidy(principal)
}

// room is how many bytes the principal may still store.
func (l *Limits) room(principal string) int64 {
	if l == nil || l.Bytes == 0 {
		return math.MaxInt64
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(principal)
	left := l.Bytes - u.stored
	for _, o := range u.open {
		left -= o.bytes
	}
	return left
}

// overQuota is the answer to bytes that the principal has no room for.
func (l *Limits) overQuota() error {
	return oci.ErrStorageFull.With("your quota of %d bytes in this proxy's cache is used up; ask whoever runs pushproxy for more", l.Bytes)
}

// gained counts a blob that the principal has now.
func (g *Registry) gained(c *call, d digest.Digest) error {
	if g.Limits == nil || g.Limits.Bytes == 0 {
		return nil
	}
	size, err := g.Cache.Stat(c.lasting(), d)
	if err != nil && !errors.Is(err, blobcache.ErrUnknown) {
		return err
	}
	g.Limits.Stored(c.principal, d, size)
	return nil
}

// Count adds up what each principal has, for a limit on bytes.
func (g *Registry) Count(ctx context.Context) error {
	if g.Limits == nil || g.Limits.Bytes == 0 {
		return nil
	}
	for grant, err := range g.Meta.Grants(ctx) {
		if err != nil {
			return err
		}
		size, err := g.Cache.Stat(ctx, grant.Digest)
		if errors.Is(err, blobcache.ErrUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		g.Limits.Stored(grant.Principal, grant.Digest, size)
	}
	return nil
}

// Recount takes from the quotas what has left the cache, after a collection.
func (g *Registry) Recount(ctx context.Context) error {
	if g.Limits == nil || g.Limits.Bytes == 0 {
		return nil
	}
	for principal, blobs := range g.Limits.counted() {
		for d, then := range blobs {
			_, err := g.Cache.Stat(ctx, d)
			switch {
			case errors.Is(err, blobcache.ErrUnknown):
				g.Limits.forget(principal, d, then)
			case err != nil:
				return err
			}
		}
	}
	return nil
}
