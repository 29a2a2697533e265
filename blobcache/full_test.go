//go:build linux

package blobcache_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
	"pushproxy/disk/disktest"
	"pushproxy/oci"
)

// fill commits blobs of 5 MiB from four goroutines until the cache is full, and
// returns those committed.
func fill(t *testing.T, c *blobcache.Cache) (seeds []int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				seed := w*1000 + i
				err := pushSeed(t, c, seed)
				if err != nil {
					var forClient *oci.Error
					if !errors.Is(err, blobcache.ErrFull) || !errors.As(err, &forClient) || forClient.Status != 507 {
						t.Errorf("push to a full disk: %v, want ErrFull with status 507", err)
					}
					return
				}
				mu.Lock()
				seeds = append(seeds, seed)
				mu.Unlock()
			}
			t.Error("the disk did not fill")
		})
	}
	wg.Wait()
	return seeds
}

func pushSeed(t *testing.T, c *blobcache.Cache, seed int) error {
	p := blobcachetest.Bytes(seed, 5<<20)
	u, err := c.Begin(t.Context(), "", "")
	if err != nil {
		return err
	}
	defer u.Release()
	if _, err := u.Write(p); err != nil {
		return err
	}
	return u.Commit(t.Context(), digest.FromBytes(p))
}

func TestAFullDiskRefusesUploadsAndLosesNothing(t *testing.T) {
	t.Parallel()
	o := small
	o.Floor = 2*o.ValueLogFileSize + 4*o.MemTableSize
	for name, inBadger := range map[string]bool{"badger": true, "files": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fillAndFree(t, blobcache.FilesOptions{BadgerOptions: o, InBadger: inBadger})
		})
	}
}

func fillAndFree(t *testing.T, o blobcache.FilesOptions) {
	dir := filepath.Join(disktest.Small(t, 128<<20).Dir, "cache")
	open := func() *blobcache.Files {
		s, err := blobcache.OpenFiles(dir, o)
		if err != nil {
			t.Fatalf("OpenFiles: %v", err)
		}
		return s
	}
	s := open()
	defer func() { _ = s.Close() }()
	c := blobcache.New(s, s)
	seeds := fill(t, c)
	if len(seeds) < 8 {
		t.Fatalf("only %d blobs of 5 MiB fit on 128 MiB", len(seeds))
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close of a full store: %v", err)
	}
	s = open()
	c = blobcache.New(s, s)
	for _, seed := range seeds {
		wantStored(t, c, blobcachetest.Bytes(seed, 5<<20))
	}
	// What a store keeps ready at the end of its newest file came back.
	err := pushSeed(t, c, 9000)
	for more := 9001; err == nil && more < 9004; more++ {
		seeds = append(seeds, more-1)
		err = pushSeed(t, c, more)
	}
	if !errors.Is(err, blobcache.ErrFull) {
		t.Fatalf("push after reopening: %v, want ErrFull", err)
	}
	for _, seed := range seeds[2:] {
		if err := c.Remove(t.Context(), digest.FromBytes(blobcachetest.Bytes(seed, 5<<20))); err != nil {
			t.Fatalf("Remove on a full disk: %v", err)
		}
	}
	if n, err := c.Sweep(t.Context(), 0); n < len(seeds)-2 || err != nil {
		t.Fatalf("Sweep on a full disk: %d of %d, %v", n, len(seeds)-2, err)
	}
	if err := pushSeed(t, c, 9999); err != nil {
		t.Fatalf("push after space came back: %v", err)
	}
	for _, seed := range append(seeds[:2:2], 9999) {
		wantStored(t, c, blobcachetest.Bytes(seed, 5<<20))
	}
}

func TestAStoreDoesNotOpenOnADiskThatIsTooFull(t *testing.T) {
	t.Parallel()
	small64 := disktest.Small(t, 64<<20)
	small64.Fill(10 << 20)
	dir := filepath.Join(small64.Dir, "cache")
	if s, err := blobcache.OpenBadger(dir, small); !errors.Is(err, blobcache.ErrFull) {
		if err == nil {
			_ = s.Close()
		}
		t.Errorf("OpenBadger: %v, want ErrFull", fmt.Sprint(err))
	}
}
