package blobcache_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// benchCache returns a cache over badger with its default settings.
func benchCache(b *testing.B) *blobcache.Cache {
	b.Helper()
	s, err := blobcache.OpenBadger(filepath.Join(b.TempDir(), "cache"), blobcache.BadgerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return blobcache.New(s, s)
}

// ingest pushes p, made unique by i, in one request.
func ingest(b *testing.B, c *blobcache.Cache, p []byte, i int) digest.Digest {
	binary.BigEndian.PutUint64(p, uint64(i))
	u, err := c.Begin(b.Context(), "", "owner")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(u, io.MultiReader(bytes.NewReader(p))); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	d := digest.FromBytes(p)
	b.StartTimer()
	if err := u.Commit(b.Context(), d); err != nil {
		b.Fatal(err)
	}
	return d
}

func benchIngest(b *testing.B, size int) {
	c, p := benchCache(b), blobcachetest.Bytes(1, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		ingest(b, c, p, i)
	}
}

func BenchmarkIngest64MiB(b *testing.B) { benchIngest(b, 64<<20) }

func BenchmarkIngest16KiB(b *testing.B) { benchIngest(b, 16<<10) }

func BenchmarkRead64MiB(b *testing.B) {
	c, p := benchCache(b), blobcachetest.Bytes(1, 64<<20)
	d := ingest(b, c, p, 0)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		blob, err := c.Open(b.Context(), d)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, blob); err != nil {
			b.Fatal(err)
		}
		_ = blob.Close()
	}
}

func BenchmarkStat(b *testing.B) {
	c := benchCache(b)
	var d digest.Digest
	for i := range 1000 {
		d = ingest(b, c, blobcachetest.Bytes(1, 100), i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Stat(b.Context(), d); err != nil {
			b.Fatal(err)
		}
	}
}
