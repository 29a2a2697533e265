package blobcache

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// uses is what Collect knows of the blobs' use.
type uses struct {
	// gate is held by who finds a blob until its use is noted, and against them by
	// who removes one that nobody uses.
	gate sync.RWMutex

	collect   sync.Mutex // one Collect at a time
	mu        sync.Mutex
	load      sync.Mutex                  // for reading the stored uses, and for loaded
	loaded    bool                        // the stored uses were read
	used      map[digest.Digest]time.Time // the last use
	condemned map[digest.Digest]time.Time // since when it is to be removed
	pinned    map[digest.Digest]int
}

// use notes that a blob is used now.
func (c *Cache) use(d digest.Digest) {
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	c.uses.touch(d, c.Now())
}

// touch needs u.mu.
func (u *uses) touch(d digest.Digest, now time.Time) {
	u.used[d] = now
	delete(u.condemned, d)
}

// Pin keeps Collect from removing a blob, whether it is here already or not,
// until unpin is called. It counts as a use.
func (c *Cache) Pin(d digest.Digest) (unpin func()) {
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	c.uses.pinned[d]++
	c.uses.touch(d, c.Now())
	return func() {
		c.uses.mu.Lock()
		defer c.uses.mu.Unlock()
		if c.uses.pinned[d]--; c.uses.pinned[d] == 0 {
			delete(c.uses.pinned, d)
		}
		c.uses.touch(d, c.Now())
	}
}
