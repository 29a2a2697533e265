package blobcache_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// stores are the stores that the suites run over.
var stores = map[string]func(*testing.T) blobcachetest.Store{
	"two stores": func(*testing.T) blobcachetest.Store {
		return apart{blobcache.NewMemory(), blobcache.NewMemory()}
	},
	"memory": func(*testing.T) blobcachetest.Store { return blobcache.NewMemory() },
	"badger": func(t *testing.T) blobcachetest.Store { return openBadger(t, filepath.Join(t.TempDir(), "cache")) },
}

// apart is a store that has no steps of both its halves.
type apart struct {
	blobcache.Bodies
	blobcache.Index
}

// openBadger opens a store with small files, and closes it with the test.
func openBadger(t testing.TB, dir string) *blobcache.Badger {
	t.Helper()
	s, err := blobcache.OpenBadger(dir, small)
	if err != nil {
		t.Fatalf("OpenBadger: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

var small = blobcache.BadgerOptions{Floor: 64 << 20, ValueLogFileSize: 16 << 20, MemTableSize: 4 << 20}

func TestStores(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name+" bodies", func(t *testing.T) {
			blobcachetest.TestBodies(t, func(t *testing.T) blobcache.Bodies { return open(t) })
		})
		t.Run(name+" index", func(t *testing.T) {
			blobcachetest.TestIndex(t, func(t *testing.T) blobcache.Index { return open(t) })
		})
		t.Run(name+" joint", func(t *testing.T) {
			if s, ok := open(t).(blobcache.Joint); ok {
				blobcachetest.TestJoint(t, func(*testing.T) blobcache.Joint { return s })
			}
		})
		t.Run(name+" cache", func(t *testing.T) { blobcachetest.TestCache(t, open) })
	}
}

func wantStored(t *testing.T, c *blobcache.Cache, want []byte) {
	t.Helper()
	b, err := c.Open(t.Context(), digest.FromBytes(want))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer b.Close()
	var got bytes.Buffer
	if _, err := b.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("read: %d bytes of %d, %v", got.Len(), len(want), err)
	}
}
