package blobcache

import (
	"context"
	"time"
)

// Usage is how much the cache holds.
type Usage struct {
	Blobs  int
	Bytes  int64     // of those
	Oldest time.Time // last use of the blob that Collect removes first; zero: there is none
}

// Usage looks through all blobs' records. It does not wait for a collection under
// way, whose work so far is in what it finds.
func (c *Cache) Usage(ctx context.Context) (u Usage, err error) {
	if err := c.loadUses(ctx); err != nil {
		return Usage{}, err
	}
	all, err := c.candidates(ctx)
	if err != nil || len(all) == 0 {
		return Usage{}, err
	}
	for _, b := range all {
		u.Bytes += b.length
	}
	u.Blobs, u.Oldest = len(all), all[0].used.Round(0)
	return u, nil
}
