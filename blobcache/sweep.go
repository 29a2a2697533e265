package blobcache

import (
	"context"
	"maps"
	"strings"
	"time"
)

// Sweep forgets the uploads that nobody touched for idle, and drops the chunks
// of every upload that is neither open nor a blob: cancelled, removed, double or
// left by a crash. It returns how many uploads' chunks it dropped. It may run
// at any time beside everything else.
func (c *Cache) Sweep(ctx context.Context, idle time.Duration) (int, error) {
	// Chunks are listed before the records that keep them, and sessions before
	// the blobs that they become, so that nothing alive falls in between.
	var stored []string
	for upload, err := range c.bodies.Uploads(ctx) {
		if err != nil {
			return 0, err
		}
		stored = append(stored, upload)
	}
	alive := make(map[string]bool)
	for e, err := range c.index.Scan(ctx, uploadPrefix) {
		if err != nil {
			return 0, err
		}
		expired, err := c.expire(ctx, e, idle)
		if err != nil {
			return 0, err
		}
		if !expired {
			alive[strings.TrimPrefix(e.Key, uploadPrefix)] = true
		}
	}
	for e, err := range c.index.Scan(ctx, blobPrefix) {
		if err != nil {
			return 0, err
		}
		var record blobRecord
		if decode(e.Key, e.Value, &record) == nil {
			alive[record.Upload] = true
		} else if _, err := c.index.Swap(ctx, e.Key, e.Value, nil); err != nil {
			return 0, err
		}
	}
	c.forgetLeft(alive)
	var dead []string
	for _, upload := range stored {
		if !alive[upload] && !c.isOpen(upload) {
			dead = append(dead, upload)
		}
	}
	return len(dead), c.bodies.Drop(ctx, dead...)
}

// expire deletes the session's record if it is idle or unreadable and nobody
// has it, and reports whether it did.
func (c *Cache) expire(ctx context.Context, e Entry, idle time.Duration) (bool, error) {
	var record sessionRecord
	id := strings.TrimPrefix(e.Key, uploadPrefix)
	if err := decode(e.Key, e.Value, &record); err == nil && c.Now().Sub(c.touched(id, record)) < idle {
		return false, nil
	}
	if !c.hold(id) {
		return false, nil
	}
	defer c.let(id)
	return c.index.Swap(ctx, e.Key, e.Value, nil)
}

// touched returns when an upload was last in use, by this process if it was.
func (c *Cache) touched(id string, r sessionRecord) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if when, known := c.left[id]; known {
		return when
	}
	return time.Unix(r.Touched, 0)
}

// forgetLeft forgets uploads that are gone.
func (c *Cache) forgetLeft(alive map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.left, func(id string, _ time.Time) bool { return !alive[id] })
}

// isOpen reports whether somebody reads the upload's chunks as a blob.
func (c *Cache) isOpen(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open[id] > 0
}
