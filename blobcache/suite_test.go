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
	"files": func(t *testing.T) blobcachetest.Store {
		return openFiles(t, filepath.Join(t.TempDir(), "cache"), blobcache.FilesOptions{BadgerOptions: small})
	},
	"files, bodies in badger": func(t *testing.T) blobcachetest.Store {
		return openFiles(t, filepath.Join(t.TempDir(), "cache"), blobcache.FilesOptions{BadgerOptions: small, InBadger: true})
	},
}

// apart is a store that has no steps of both its halves.
type apart struct {
	blobcache.Bodies
	blobcache.Index
}

// diskStores open the stores that survive the process, with small files.
var diskStores = map[string]func(dir string) (diskStore, error){
	"badger": func(dir string) (diskStore, error) { return blobcache.OpenBadger(dir, small) },
	"files": func(dir string) (diskStore, error) {
		return blobcache.OpenFiles(dir, blobcache.FilesOptions{BadgerOptions: small})
	},
}

type diskStore interface {
	blobcache.Joint
	Close() error
}

// openDisk opens one of diskStores, and closes it with the test.
func openDisk(t testing.TB, kind, dir string) diskStore {
	t.Helper()
	s, err := diskStores[kind](dir)
	if err != nil {
		t.Fatalf("opening %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
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

// openFiles opens a store, and closes it with the test.
func openFiles(t testing.TB, dir string, o blobcache.FilesOptions) *blobcache.Files {
	t.Helper()
	s, err := blobcache.OpenFiles(dir, o)
	if err != nil {
		t.Fatalf("OpenFiles: %v", err)
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
