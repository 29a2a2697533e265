package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// FuzzAnySplitOfWritesGivesTheSameBlob cuts a body as the script says: each byte
// is a piece's length and what happens after it.
func FuzzAnySplitOfWritesGivesTheSameBlob(f *testing.F) {
	f.Add(uint32(0), []byte{})
	f.Add(uint32(1), []byte{1, 2, 3})
	f.Add(uint32(1<<20), []byte{0xff, 0x40, 0x81, 0xc2})
	f.Add(uint32(1<<20+1), []byte{0x7f, 0xbf, 0x3f, 0xff, 0x00})
	f.Add(uint32(3<<20+70<<10), bytes.Repeat([]byte{0x3f, 0x7e, 0xbd, 0xfc}, 40))
	f.Fuzz(func(t *testing.T, size uint32, script []byte) {
		p := blobcachetest.Bytes(5, int(size%(4<<20)))
		s := blobcache.NewMemory()
		c := blobcache.New(s, s)
		u, err := c.Begin(t.Context(), "", "")
		for _, b := range script {
			if err != nil {
				t.Fatal(err)
			}
			// Six bits of length, in steps that do not divide a chunk.
			piece := p[u.Offset():min(int64(len(p)), u.Offset()+int64(b&0x3f)*37_123)]
			switch b >> 6 {
			case 0:
				_, err = u.Write(piece)
			case 1:
				_, err = io.Copy(u, iotest.OneByteReader(bytes.NewReader(piece[:min(len(piece), 5000)])))
			case 2:
				if _, err = u.Write(piece); err == nil {
					err = u.Checkpoint(t.Context())
				}
				if err == nil {
					u.Release()
					u, err = c.Resume(t.Context(), u.ID())
				}
			case 3:
				if err = u.Checkpoint(t.Context()); err == nil {
					_, err = io.Copy(u, bytes.NewReader(blobcachetest.Bytes(6, len(piece))))
				}
				if err == nil {
					err = u.Rollback(t.Context())
				}
			}
		}
		if err == nil {
			_, err = io.Copy(u, bytes.NewReader(p[u.Offset():]))
		}
		if err == nil {
			err = u.Commit(t.Context(), digest.FromBytes(p))
		}
		if err != nil {
			t.Fatal(err)
		}
		wantStored(t, c, p)
	})
}

// sink is Bodies that keep nothing.
type sink struct{ blobcache.Bodies }

func (sink) PutChunk(context.Context, string, int, []byte) error { return nil }

func (sink) Uploads(context.Context) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMemoryOfAnUploadDoesNotDependOnItsLength(t *testing.T) {
	m := blobcache.NewMemory()
	u, err := blobcache.New(sink{m}, m).Begin(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Release()
	heap := func() int64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before := heap()
	for _, to := range []int64{1 << 20, 16 << 20, 64 << 20, 256 << 20} {
		if _, err := io.Copy(u, io.LimitReader(zeros{}, to-u.Offset())); err != nil {
			t.Fatal(err)
		}
		// Two buffers in use, and what the pool holds for the next one.
		if grown := heap() - before; grown > 4<<20 {
			t.Errorf("after %d MiB the heap has grown by %d KiB", to>>20, grown>>10)
		}
	}
}

func TestASmallBlobTakesASmallBuffer(t *testing.T) {
	m := blobcache.NewMemory()
	c := blobcache.New(sink{m}, m)
	p := bytes.Repeat([]byte("x"), 2000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		u, err := c.Begin(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(u, bytes.NewBuffer(p)); err != nil {
			t.Fatal(err)
		}
		if err := u.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 20; each > 32<<10 {
		t.Errorf("an upload of 2000 bytes allocates %d bytes", each)
	}
}

func TestABrokenBodyKeepsWhatCameBeforeIt(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	c := blobcache.New(m, m)
	p := blobcachetest.Bytes(1, 3<<20+500)
	ctx, cancel := context.WithCancel(t.Context())
	u, err := c.Begin(ctx, "", "")
	if err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(p[:2<<20+7]), iotest.ErrReader(io.ErrUnexpectedEOF))
	if n, err := io.Copy(u, broken); n != 2<<20+7 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("Copy: %d, %v", n, err)
	}
	cancel() // the client is gone
	if err := u.Checkpoint(context.WithoutCancel(ctx)); err != nil {
		t.Fatalf("Checkpoint: %v", err)
	}
	u.Release()
	u, err = c.Resume(t.Context(), u.ID())
	if err != nil || u.Offset() != 2<<20+7 {
		t.Fatalf("Resume: %v", err)
	}
	if _, err := u.Write(p[u.Offset():]); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), digest.FromBytes(p)); err != nil {
		t.Fatal(err)
	}
	wantStored(t, c, p)
}
