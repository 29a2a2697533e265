package blobcache

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// FuzzRecords stores anything, correctly sealed, as the records of a blob and of
// an upload: reading them must end in an error or in the right bytes.
func FuzzRecords(f *testing.F) {
	for _, length := range []int64{3, 0, -1, 1 << 40, math.MaxInt64} {
		r := blobRecord{Upload: "00112233445566778899aabbccddeeff", Length: length}
		f.Add(string(r.encode(nil)))
		f.Add(string(r.encode(nil)[:12]) + "x")
	}
	state, _ := hashState(sha256.New())
	for _, r := range []sessionRecord{
		{}, {Algorithm: "sha256"}, {Algorithm: "sha256", Hash: state, Owner: "owner", Created: 1, Touched: 2},
		{Algorithm: "sha256", Offset: 3, Hash: state, BaseHash: state}, {Algorithm: "sha256", Offset: -5}, {Algorithm: "sha256", Hash: state, Base: 1 << 62, BaseHash: state},
		{Algorithm: "sha512", Hash: state}, {Algorithm: "md5", Hash: state},
	} {
		f.Add(string(r.encode(nil)))
		f.Add(string(r.encode(nil)) + "x")
	}
	f.Add("")
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, record string) {
		const id = "00112233445566778899aabbccddeeff"
		m, ctx := NewMemory(), t.Context()
		c := New(m, m)
		d := digest.FromString("abc")
		for _, err := range []error{
			m.PutChunk(ctx, id, 0, seal(chunkName(id, 0), []byte("abc"))), put(t, m, blobKey(d), record), put(t, m, uploadKey(id), record),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if u, err := c.Resume(ctx, id); err == nil {
			if u.Offset() < 0 || u.Base() < 0 {
				t.Errorf("resumed at %d, %d", u.Offset(), u.Base())
			}
			_ = u.Rollback(ctx)
			u.Release()
		}
		if n, err := c.Stat(ctx, d); err == nil && n < 0 {
			t.Errorf("a blob of %d bytes", n)
		}
		if b, err := c.Open(ctx, d); err == nil {
			if got, err := io.ReadAll(b); err == nil && b.Size() > 0 && string(got) != "abc" {
				t.Errorf("read %q", got)
			}
			_ = b.Close()
		}
		if _, err := c.Sweep(ctx, time.Hour); err != nil {
			t.Error(err)
		}
	})
}

func put(t *testing.T, m *Memory, key, record string) error {
	_, err := m.Swap(t.Context(), key, nil, seal(key, []byte(record)))
	return err
}

func TestBytesOfAnotherBlobAreNeverWhole(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 1000, ChunkSize, 2*ChunkSize + 9} {
		m, ctx := NewMemory(), t.Context()
		c := New(m, m)
		u, err := c.Begin(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		stored := bytes.Repeat([]byte("x"), size)
		if _, err := u.Write(stored); err != nil {
			t.Fatal(err)
		}
		if err := u.Commit(ctx, digest.FromBytes(stored)); err != nil {
			t.Fatal(err)
		}
		// Everything is whole, but the blob's record names the wrong upload.
		d := digest.FromString("other bytes")
		raw := encode(blobKey(d), &blobRecord{Upload: u.ID(), Length: int64(size)})
		if _, err := m.Swap(ctx, blobKey(d), nil, raw); err != nil {
			t.Fatal(err)
		}
		b, err := c.Open(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		if want := (chunksOf(int64(size)) - 1) * ChunkSize; len(got) != want || !errors.Is(err, ErrDamaged) {
			t.Errorf("read of %d bytes: %d, %v; want the %d before the last chunk and ErrDamaged", size, len(got), err, want)
		}
		if n, err := b.Read(make([]byte, 9)); n != 0 || !errors.Is(err, ErrDamaged) {
			t.Errorf("next read: %d, %v; want ErrDamaged", n, err)
		}
		if _, err := c.Stat(ctx, d); !errors.Is(err, ErrUnknown) {
			t.Errorf("Stat: %v, want ErrUnknown", err)
		}
		_ = b.Close()
	}
}
