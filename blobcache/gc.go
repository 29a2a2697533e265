package blobcache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits say which blobs Collect removes.
type Limits struct {
	// Quota is how many bytes of blobs may stay; 0: any number.
	Quota int64
	// MaxAge is how long a blob may go unused; 0: for ever.
	MaxAge time.Duration
	// Young is how long a blob is kept after a use, whatever the other limits
	// say; 0: one hour, the time in which a manifest follows its blobs.
	Young time.Duration
	// Grace is how long a blob is only condemned before it is removed; a use
	// meanwhile spares it. 0: ten minutes.
	Grace time.Duration
	// Idle is how long an upload may lie untouched; 0: 24 hours.
	Idle time.Duration
	// Needed returns the blobs that must stay, as of now; nil: none.
	Needed func() map[digest.Digest]bool
	// DryRun changes nothing: Removed is what would go, had the grace passed.
	DryRun bool
}

// Collected is what Collect found and did.
type Collected struct {
	Blobs     int   `json:"blobs"`      // that there were
	Bytes     int64 `json:"bytes"`      // … in all
	Condemned int   `json:"condemned"`  // that will go if nobody uses them
	Removed   int   `json:"removed"`    // that went
	Freed     int64 `json:"freed"`      // bytes of those
	Kept      int   `json:"kept"`       // that had to stay though a limit wants them gone
	Swept     int   `json:"swept"`      // uploads, blobs among them, whose chunks were dropped
	OverQuota int64 `json:"over_quota"` // bytes that could not be brought under the quota yet
}

// candidate is a blob that Collect looks at.
type candidate struct {
	d      digest.Digest
	length int64
	used   time.Time
	raw    []byte
}

// Collect removes the blobs that the limits want gone, least recently used
// first, in two phases: condemned by one call, removed by a later one, when the
// grace has passed without a use. Then it drops what nothing refers to. It may
// run beside everything else.
func (c *Cache) Collect(ctx context.Context, l Limits) (Collected, error) {
	l.Young, l.Grace, l.Idle = defaultTo(l.Young, time.Hour), defaultTo(l.Grace, 10*time.Minute), defaultTo(l.Idle, 24*time.Hour)
	c.uses.collect.Lock()
	defer c.uses.collect.Unlock()
	if err := c.loadUses(ctx); err != nil {
		return Collected{}, err
	}
	all, err := c.candidates(ctx)
	if err != nil {
		return Collected{}, err
	}
	r := Collected{Blobs: len(all)}
	for _, b := range all {
		r.Bytes += b.length
	}
	needed := map[digest.Digest]bool{}
	if l.Needed != nil {
		needed = l.Needed()
	}
	doomed := c.condemn(all, l, needed, &r)
	if l.DryRun {
		return r, nil
	}
	for _, b := range doomed {
		removed, err := c.removeUnused(ctx, b)
		if err != nil {
			return r, err
		}
		if removed {
			r.Removed++
			r.Freed += b.length
			c.tally.evicted.Add(1)
			c.tally.freed.Add(b.length)
		}
	}
	if r.Swept, err = c.Sweep(ctx, l.Idle); err != nil {
		return r, err
	}
	// A full disk is no reason: the uses are stored when there is room again.
	if err := c.storeUses(ctx, all); err != nil && !errors.Is(err, ErrFull) {
		return r, err
	}
	return r, nil
}

func defaultTo(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return d
}

// candidates lists the blobs, least recently used first.
func (c *Cache) candidates(ctx context.Context) ([]candidate, error) {
	var all []candidate
	for e, err := range c.index.Scan(ctx, blobPrefix) {
		if err != nil {
			return nil, err
		}
		var record blobRecord
		if decode(e.Key, e.Value, &record) != nil {
			continue // Sweep's
		}
		all = append(all, candidate{d: digest.Digest(strings.TrimPrefix(e.Key, blobPrefix)), length: record.Length, raw: e.Value})
	}
	now := c.Now()
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	for i := range all {
		used, known := c.uses.used[all[i].d]
		if !known {
			// Used by a process that did not live to store it: as young as can be.
			used = now
			c.uses.used[all[i].d] = now
		}
		all[i].used = used
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(now.Sub(b.used), now.Sub(a.used)) })
	return all, nil
}

// condemn marks what the limits want gone, and returns what was marked for as
// long as the grace.
func (c *Cache) condemn(all []candidate, l Limits, needed map[digest.Digest]bool, r *Collected) (doomed []candidate) {
	now, left := c.Now(), r.Bytes
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	for _, b := range all {
		age := now.Sub(b.used)
		over := l.Quota > 0 && left > l.Quota
		if !over && (l.MaxAge == 0 || age <= l.MaxAge) {
			delete(c.uses.condemned, b.d)
			continue
		}
		// A clock that was set back makes the age negative: young.
		if age < l.Young || needed[b.d] || c.uses.pinned[b.d] > 0 || !c.uses.used[b.d].Equal(b.used) {
			r.Kept++
			delete(c.uses.condemned, b.d)
			continue
		}
		left -= b.length
		if l.DryRun {
			r.Removed++
			r.Freed += b.length
			continue
		}
		since, marked := c.uses.condemned[b.d]
		if !marked {
			since = now
			c.uses.condemned[b.d] = now
		}
		if now.Sub(since) >= l.Grace {
			doomed = append(doomed, b)
		} else {
			r.Condemned++
		}
	}
	if l.Quota > 0 {
		r.OverQuota = max(0, left-l.Quota)
	}
	return doomed
}

// removeUnused removes a blob, unless it was used since it was condemned.
func (c *Cache) removeUnused(ctx context.Context, b candidate) (bool, error) {
	c.uses.gate.Lock()
	defer c.uses.gate.Unlock()
	c.uses.mu.Lock()
	_, condemned := c.uses.condemned[b.d]
	spared := !condemned || c.uses.pinned[b.d] > 0
	if !spared {
		delete(c.uses.condemned, b.d)
		delete(c.uses.used, b.d)
	}
	c.uses.mu.Unlock()
	if spared {
		return false, nil
	}
	done, err := c.index.Swap(ctx, blobKey(b.d), b.raw, nil)
	if err != nil || !done {
		return false, err
	}
	return true, c.forgetUse(ctx, b.d)
}
