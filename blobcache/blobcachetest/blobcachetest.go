// Package blobcachetest holds the suites that every store of blobcache passes:
// the contracts of Bodies and Index, and what a Cache does on top of them.
package blobcachetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pushproxy/blobcache"
)

// Store is both halves of a cache's storage.
type Store interface {
	blobcache.Bodies
	blobcache.Index
}

// TestBodies checks a store of chunks; open returns an empty one.
func TestBodies(t *testing.T, open func(t *testing.T) blobcache.Bodies) {
	run(t, open, map[string]func(*testing.T, blobcache.Bodies){
		"a chunk reads back as it was stored":               chunkReadsBack,
		"a chunk is replaced by a later one":                chunkIsReplaced,
		"a chunk fills the buffer it is given":              chunkFillsBuffer,
		"a chunk is summed while it is read":                chunkIsSummed,
		"a chunk keeps its bytes when the caller's change":  chunkIsCopied,
		"an absent chunk is unknown":                        absentChunkIsUnknown,
		"an unusable name, number or chunk is refused":      unusableChunkIsRefused,
		"drop forgets whole uploads and no others":          dropForgets,
		"uploads lists each upload with chunks once":        uploadsAreListed,
		"a cancelled context stops every call":              cancelledBodies,
		"many writers and a drop do not disturb each other": writersBesideDrop,
	})
}

// run runs each test on a store of its own.
func run[S any](t *testing.T, open func(*testing.T) S, tests map[string]func(*testing.T, S)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// ID returns the id of an upload that depends on the name.
func ID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

func put(t *testing.T, b blobcache.Bodies, upload string, n int, p []byte) {
	t.Helper()
	if err := b.PutChunk(t.Context(), ID(upload), n, p); err != nil {
		t.Fatalf("PutChunk(%s, %d): %v", upload, n, err)
	}
}

func wantChunk(t *testing.T, b blobcache.Bodies, upload string, n int, want []byte) {
	t.Helper()
	got, err := b.GetChunk(t.Context(), ID(upload), n, nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("GetChunk(%s, %d): %d bytes, %v; want the %d stored", upload, n, len(got), err, len(want))
	}
}

func chunkReadsBack(t *testing.T, b blobcache.Bodies) {
	for n, size := range []int{1, 100, 64 << 10, 64<<10 + 1, blobcache.ChunkSize, blobcache.ChunkSize + 4} {
		put(t, b, "a", n, Bytes(n, size))
	}
	if err := b.Barrier(t.Context(), ID("a"), ID("never there")); err != nil {
		t.Fatalf("Barrier: %v", err)
	}
	for n, size := range []int{1, 100, 64 << 10, 64<<10 + 1, blobcache.ChunkSize, blobcache.ChunkSize + 4} {
		wantChunk(t, b, "a", n, Bytes(n, size))
	}
	put(t, b, "a", 1<<23-1, []byte("the last number"))
	wantChunk(t, b, "a", 1<<23-1, []byte("the last number"))
}

func chunkIsReplaced(t *testing.T, b blobcache.Bodies) {
	put(t, b, "a", 1, Bytes(1, blobcache.ChunkSize))
	for i, size := range []int{10, blobcache.ChunkSize, 20, 70 << 10, blobcache.ChunkSize, 11} {
		put(t, b, "a", 0, Bytes(i, size))
		wantChunk(t, b, "a", 0, Bytes(i, size))
	}
	wantChunk(t, b, "a", 1, Bytes(1, blobcache.ChunkSize))
}

func chunkFillsBuffer(t *testing.T, b blobcache.Bodies) {
	want := Bytes(1, 1000)
	put(t, b, "a", 0, want)
	for _, buf := range [][]byte{make([]byte, 0, 2000), make([]byte, 500, 2000), make([]byte, 5)} {
		got, err := b.GetChunk(t.Context(), ID("a"), 0, buf)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("GetChunk: %d bytes, %v", len(got), err)
		}
		if cap(buf) >= len(want) && &got[0] != &buf[:1][0] {
			t.Error("GetChunk did not use the buffer although the chunk fits")
		}
	}
}

func chunkIsSummed(t *testing.T, b blobcache.Bodies) {
	s, ok := b.(blobcache.Summed)
	if !ok {
		return // a store need not be able to
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	for n, size := range []int{1, 4, 5, 100, 64<<10 + 3, 64<<10 + 4, 64<<10 + 5, 200 << 10, blobcache.ChunkSize + 4} {
		want := Bytes(n, size)
		put(t, b, "a", n, want)
		for _, buf := range [][]byte{nil, make([]byte, 0, size)} {
			got, sum, err := s.GetSummed(t.Context(), ID("a"), n, buf, 7)
			if err != nil || !bytes.Equal(got, want) || sum != crc32.Update(7, table, want[:max(0, size-4)]) {
				t.Errorf("GetSummed of %d bytes: %d bytes, sum %08x, %v", size, len(got), sum, err)
			}
		}
	}
	if got, _, err := s.GetSummed(t.Context(), ID("b"), 0, nil, 0); !errors.Is(err, blobcache.ErrUnknown) {
		t.Errorf("GetSummed of an absent chunk: %d bytes, %v; want ErrUnknown", len(got), err)
	}
}

func chunkIsCopied(t *testing.T, b blobcache.Bodies) {
	for n, size := range []int{100, blobcache.ChunkSize} {
		p := Bytes(n, size)
		put(t, b, "a", n, p)
		clear(p)
		got, err := b.GetChunk(t.Context(), ID("a"), n, nil)
		if err != nil {
			t.Fatal(err)
		}
		clear(got)
		wantChunk(t, b, "a", n, Bytes(n, size))
	}
}

func absentChunkIsUnknown(t *testing.T, b blobcache.Bodies) {
	put(t, b, "a", 1, []byte("x"))
	for _, c := range []struct {
		upload string
		n      int
	}{{ID("a"), 0}, {ID("a"), 2}, {ID("b"), 1}, {"", 1}, {ID("a") + "/00000001", 0}, {"../x", 0}} {
		if got, err := b.GetChunk(t.Context(), c.upload, c.n, nil); !errors.Is(err, blobcache.ErrUnknown) {
			t.Errorf("GetChunk(%q, %d): %d bytes, %v; want ErrUnknown", c.upload, c.n, len(got), err)
		}
	}
}

func unusableChunkIsRefused(t *testing.T, b blobcache.Bodies) {
	for _, c := range []struct {
		upload string
		n      int
		p      string
	}{
		{"", 0, "x"}, {"a", 0, "x"}, {"../../../../../../../../../../x/y", 0, "x"}, {strings.ToUpper(ID("a")), 0, "x"}, {ID("a") + "0", 0, "x"},
		{ID("a"), -1, "x"}, {ID("a"), 1 << 23, "x"}, {ID("a"), 0, ""}, {ID("a"), 0, strings.Repeat("x", mib+33)},
	} {
		if err := b.PutChunk(t.Context(), c.upload, c.n, []byte(c.p)); err == nil {
			t.Errorf("PutChunk(%q, %d, %d bytes) succeeded", c.upload, c.n, len(c.p))
		}
	}
}

func dropForgets(t *testing.T, b blobcache.Bodies) {
	for _, upload := range []string{"a", "aa", "b", "c"} {
		for n := range 3 {
			put(t, b, upload, n, Bytes(n, 100<<10))
		}
	}
	if err := b.Drop(t.Context(), ID("a"), ID("c"), ID("never there")); err != nil {
		t.Fatalf("Drop: %v", err)
	}
	if err := b.Drop(t.Context()); err != nil {
		t.Fatalf("Drop of nothing: %v", err)
	}
	for n := range 3 {
		wantChunk(t, b, "aa", n, Bytes(n, 100<<10))
		wantChunk(t, b, "b", n, Bytes(n, 100<<10))
		if _, err := b.GetChunk(t.Context(), ID("a"), n, nil); !errors.Is(err, blobcache.ErrUnknown) {
			t.Errorf("chunk %d of a dropped upload: %v, want ErrUnknown", n, err)
		}
	}
	put(t, b, "a", 0, []byte("again"))
	wantChunk(t, b, "a", 0, []byte("again"))
}

func uploadsAreListed(t *testing.T, b blobcache.Bodies) {
	if got := Collect(t, b.Uploads(t.Context())); len(got) != 0 {
		t.Fatalf("an empty store lists %v", got)
	}
	var want []string
	for i := range 600 {
		upload := fmt.Sprint(i)
		want = append(want, ID(upload))
		put(t, b, upload, 0, []byte("x"))
		put(t, b, upload, i, []byte("y"))
	}
	got := Collect(t, b.Uploads(t.Context()))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%d uploads listed, want %d", len(got), len(want))
	}
	for range b.Uploads(t.Context()) {
		break // must not go on
	}
}

func cancelledBodies(t *testing.T, b blobcache.Bodies) {
	ctx, cancel := context.WithCancel(t.Context())
	put(t, b, "a", 0, []byte("x"))
	cancel()
	_, getErr := b.GetChunk(ctx, ID("a"), 0, nil)
	for call, err := range map[string]error{
		"PutChunk": b.PutChunk(ctx, ID("a"), 0, []byte("y")), "GetChunk": getErr, "Drop": b.Drop(ctx, ID("a")),
		"Barrier": b.Barrier(ctx, ID("a")), "Uploads": last(b.Uploads(ctx)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", call, err)
		}
	}
	wantChunk(t, b, "a", 0, []byte("x"))
}

func writersBesideDrop(t *testing.T, b blobcache.Bodies) {
	const writers, chunks = 4, 8
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range chunks {
				if err := b.PutChunk(t.Context(), ID(fmt.Sprint("writer", w)), n, Bytes(n, 70<<10)); err != nil {
					t.Errorf("PutChunk beside Drop: %v", err)
				}
			}
		})
	}
	for i := range 4 {
		dead := fmt.Sprint("dead", i)
		put(t, b, dead, 0, Bytes(i, 70<<10))
		if err := b.Drop(t.Context(), ID(dead)); err != nil {
			t.Errorf("Drop beside writers: %v", err)
		}
	}
	wg.Wait()
	for w := range writers {
		for n := range chunks {
			wantChunk(t, b, fmt.Sprint("writer", w), n, Bytes(n, 70<<10))
		}
	}
}

// Bytes returns size bytes that depend on seed and repeat nowhere.
func Bytes(seed, size int) []byte {
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p)
	return p
}

// Collect returns everything an iteration yields and fails on its error.
func Collect[T any](t *testing.T, seq iter.Seq2[T, error]) []T {
	t.Helper()
	var all []T
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

// last returns the error that an iteration ends with.
func last[T any](seq iter.Seq2[T, error]) (err error) {
	for _, err = range seq {
	}
	return err
}
