//go:build linux || darwin

package blobcache_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// benchStores are the stores that benchmarks compare, with default settings.
var benchStores = map[string]func(b *testing.B) blobcachetest.Store{
	"files": func(b *testing.B) blobcachetest.Store {
		s, err := blobcache.OpenFiles(filepath.Join(b.TempDir(), "cache"), blobcache.FilesOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		return s
	},
	"badger": func(b *testing.B) blobcachetest.Store {
		s, err := blobcache.OpenBadger(filepath.Join(b.TempDir(), "cache"), blobcache.BadgerOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		return s
	},
}

// cpuTime returns the processor time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// body is a blob to push: p with a number for its first eight bytes.
type body struct {
	p []byte
	d digest.Digest
}

// ingest pushes a blob as docker does: a session, a stream, the end.
func ingest(b *testing.B, c *blobcache.Cache, p body, i int) {
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(i))
	u, err := c.Begin(b.Context(), "", "owner")
	if err != nil {
		b.Fatal(err)
	}
	u.Release()
	if u, err = c.Resume(b.Context(), u.ID()); err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(u, struct{ io.Reader }{io.MultiReader(bytes.NewReader(head[:]), bytes.NewReader(p.p[8:]))}); err != nil {
		b.Fatal(err)
	}
	if err := u.Checkpoint(b.Context()); err != nil {
		b.Fatal(err)
	}
	u.Release()
	if u, err = c.Resume(b.Context(), u.ID()); err != nil {
		b.Fatal(err)
	}
	if err := u.Commit(b.Context(), p.d); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkIngest pushes so many blobs of a size in each round, from so many
// clients at once. cpu-ms is the processor time of a round.
func BenchmarkIngest(b *testing.B) {
	for _, load := range []struct {
		name                string
		size, blobs, atOnce int
	}{{"1x64MiB", 64 << 20, 1, 1}, {"4x64MiB-c4", 64 << 20, 4, 4}, {"500x16KiB-c8", 16 << 10, 500, 8}} {
		for kind, open := range benchStores {
			b.Run(load.name+"/"+kind, func(b *testing.B) { benchIngest(b, open, load.size, load.blobs, load.atOnce) })
		}
	}
}

func benchIngest(b *testing.B, open func(*testing.B) blobcachetest.Store, size, blobs, atOnce int) {
	s := open(b)
	c := blobcache.New(s, s)
	b.SetBytes(int64(size * blobs))
	b.ReportAllocs()
	var all []body
	for i := range b.N * blobs {
		all = append(all, numbered(size, i))
	}
	began := cpuTime()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(all); i = int(next.Add(1)) - 1 {
				ingest(b, c, all[i], i)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-began)/time.Microsecond)/1000/float64(b.N), "cpu-ms/op")
}

var base sync.Map // size → bytes of the blobs

// numbered returns the blob of a size that begins with the number.
func numbered(size, i int) body {
	v, ok := base.Load(size)
	if !ok {
		v, _ = base.LoadOrStore(size, blobcachetest.Bytes(1, size))
	}
	p := v.([]byte)
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(i))
	h := digest.SHA256.Hash()
	h.Write(head[:])
	h.Write(p[8:])
	return body{p, digest.NewDigest(digest.SHA256, h)}
}

func BenchmarkRead64MiB(b *testing.B) {
	for kind, open := range benchStores {
		b.Run(kind, func(b *testing.B) {
			s := open(b)
			c, p := blobcache.New(s, s), numbered(64<<20, 0)
			ingest(b, c, p, 0)
			b.SetBytes(int64(len(p.p)))
			b.ReportAllocs()
			for b.Loop() {
				blob, err := c.Open(b.Context(), p.d)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, blob); err != nil {
					b.Fatal(err)
				}
				_ = blob.Close()
			}
		})
	}
}

func BenchmarkStat(b *testing.B) {
	for kind, open := range benchStores {
		b.Run(kind, func(b *testing.B) {
			s := open(b)
			c := blobcache.New(s, s)
			var p body
			for i := range 1000 {
				p = numbered(100, i)
				ingest(b, c, p, i)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Stat(b.Context(), p.d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIngestFollowed is the ingest of 64 MiB that somebody reads as it
// comes.
func BenchmarkIngestFollowed(b *testing.B) {
	for kind, open := range benchStores {
		b.Run(kind, func(b *testing.B) {
			s := open(b)
			c := blobcache.New(s, s)
			b.SetBytes(64 << 20)
			b.ReportAllocs()
			var all []body
			for i := range b.N {
				all = append(all, numbered(64<<20, i))
			}
			began := cpuTime()
			b.ResetTimer()
			for i := range b.N {
				follow(b, c, all[i], i)
			}
			b.StopTimer()
			b.ReportMetric(float64((cpuTime()-began)/time.Microsecond)/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

func follow(b *testing.B, c *blobcache.Cache, p body, i int) {
	u, err := c.Begin(b.Context(), "", "owner")
	if err != nil {
		b.Fatal(err)
	}
	f, err := c.Follow(b.Context(), u.ID())
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := io.Copy(struct{ io.Writer }{io.Discard}, f); err != nil || n != int64(len(p.p)) {
			b.Errorf("followed %d bytes, %v", n, err)
		}
		_ = f.Close()
	})
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], uint64(i))
	if _, err := io.Copy(u, struct{ io.Reader }{io.MultiReader(bytes.NewReader(head[:]), bytes.NewReader(p.p[8:]))}); err != nil {
		b.Fatal(err)
	}
	if err := u.Commit(b.Context(), p.d); err != nil {
		b.Fatal(err)
	}
	wg.Wait()
}
