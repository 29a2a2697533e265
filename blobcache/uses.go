package blobcache

import (
	"context"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// useWorth is how much newer a use must be than the stored one, in seconds, to
// be stored.
const useWorth = 600

// loadUses reads the uses that earlier processes stored, once.
func (c *Cache) loadUses(ctx context.Context) error {
	c.uses.load.Lock()
	defer c.uses.load.Unlock()
	if c.uses.loaded {
		return nil
	}
	stored := map[digest.Digest]int64{}
	for e, err := range c.index.Scan(ctx, usedPrefix) {
		if err != nil {
			return err
		}
		var record usedRecord
		if decode(e.Key, e.Value, &record) == nil {
			stored[digest.Digest(strings.TrimPrefix(e.Key, usedPrefix))] = record.When
		}
	}
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	for d, when := range stored {
		if _, known := c.uses.used[d]; !known {
			c.uses.used[d] = time.Unix(when, 0)
		}
	}
	c.uses.loaded = true
	return nil
}

// storeUses stores the uses of the blobs that there are, and forgets others.
func (c *Cache) storeUses(ctx context.Context, all []candidate) error {
	here := make(map[digest.Digest]bool, len(all))
	for _, b := range all {
		here[b.d] = true
	}
	stored := map[digest.Digest]int64{}
	for e, err := range c.index.Scan(ctx, usedPrefix) {
		if err != nil {
			return err
		}
		d := digest.Digest(strings.TrimPrefix(e.Key, usedPrefix))
		var record usedRecord
		if decode(e.Key, e.Value, &record) == nil && here[d] {
			stored[d] = record.When
		} else if _, err := c.index.Swap(ctx, e.Key, e.Value, nil); err != nil {
			return err
		}
	}
	for _, b := range all {
		c.uses.mu.Lock()
		used, known := c.uses.used[b.d]
		c.uses.mu.Unlock()
		// The age is what is known for sure; the clock may have been set since.
		now := c.Now()
		when := now.Add(-now.Sub(used)).Unix()
		if before, is := stored[b.d]; !known || is && when-before < useWorth && when >= before {
			continue
		}
		if err := c.storeUse(ctx, b.d, when); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cache) storeUse(ctx context.Context, d digest.Digest, when int64) error {
	key := usedPrefix + string(d)
	before, err := c.index.Get(ctx, key)
	if err != nil {
		return err
	}
	_, err = c.index.Swap(ctx, key, before, encode(key, &usedRecord{When: when}))
	return err
}

func (c *Cache) forgetUse(ctx context.Context, d digest.Digest) error {
	key := usedPrefix + string(d)
	raw, err := c.index.Get(ctx, key)
	if err != nil || raw == nil {
		return err
	}
	_, err = c.index.Swap(ctx, key, raw, nil)
	return err
}
