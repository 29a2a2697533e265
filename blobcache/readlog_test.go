package blobcache_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// If a new version of badger fails this, chunks are still read, but by badger,
// which costs a pass over memory more.
func TestChunksAreReadFromTheValueLogItself(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "blobs")
	options := blobcache.BadgerOptions{Floor: 1, ValueLogFileSize: 4 << 20}
	s, err := blobcache.OpenBadger(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	c := blobcache.New(s, s)
	uploads := map[string][]byte{}
	for i, size := range []int{5 << 10, 16<<10 - 1, 64 << 10, 1 << 20, 9<<20 + 5000} {
		u, err := c.Begin(t.Context(), digest.SHA256, "")
		if err != nil {
			t.Fatal(err)
		}
		blob := blobcachetest.Bytes(i, size)
		if _, err := u.Write(blob); err != nil {
			t.Fatal(err)
		}
		if err := u.Commit(t.Context(), digest.FromBytes(blob)); err != nil {
			t.Fatal(err)
		}
		uploads[u.ID()] = blob
	}
	check := func(when string, read func(upload string, n int) ([]byte, bool, error)) {
		t.Helper()
		for upload, blob := range uploads {
			for n := 0; n < len(blob); n += blobcache.ChunkSize {
				want := blob[n:min(n+blobcache.ChunkSize, len(blob))]
				got, whole, err := read(upload, n/blobcache.ChunkSize)
				if err != nil || !whole || !bytes.Equal(got[:max(0, len(got)-4)], want) {
					t.Errorf("%s: chunk %d of %d bytes: %d bytes, whole: %t, %v", when, n/blobcache.ChunkSize, len(blob), len(got), whole, err)
				}
			}
		}
	}
	check("as stored", s.ReadLogForTest)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = blobcache.OpenBadger(dir, options); err != nil {
		t.Fatal(err)
	}
	check("opened again", s.ReadLogForTest)
	logs, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
	if err != nil || len(logs) < 2 {
		t.Fatalf("%d value logs, %v; want several", len(logs), err)
	}
	for _, log := range logs {
		if err := os.Rename(log, log+".away"); err != nil {
			t.Fatal(err)
		}
	}
	check("where the log cannot be read, by badger", func(upload string, n int) ([]byte, bool, error) {
		p, err := s.GetChunk(t.Context(), upload, n, nil)
		return p, err == nil, err
	})
	for _, log := range logs {
		if err := os.Rename(log+".away", log); err != nil {
			t.Fatal(err)
		}
	}
}
