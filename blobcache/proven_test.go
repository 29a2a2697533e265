package blobcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestTheDigestIsTestedOncePerProcess exchanges a chunk of a blob together with
// its checksum: only the digest can tell.
func TestTheDigestIsTestedOncePerProcess(t *testing.T) {
	t.Parallel()
	right := bytes.Repeat([]byte("right "), ChunkSize/3) // two chunks
	wrong := bytes.Repeat([]byte("wrong "), ChunkSize/3)
	d := digest.FromBytes(right)
	tests := map[string]struct {
		look    func(t *testing.T, c *Cache) error
		noticed bool
	}{
		"the next process finds it, at its first read": {func(_ *testing.T, c *Cache) error { return readTo(c, d, int64(len(right))) }, true},
		"a read of a part proves nothing": {func(t *testing.T, c *Cache) error {
			if err := readTo(c, d, ChunkSize-1); err != nil {
				t.Error(err)
			}
			return readTo(c, d, int64(len(right)))
		}, true},
		"a check finds it, whatever was read before": {func(t *testing.T, c *Cache) error {
			c.proven.add(uploadOf(t, c, d), d)
			r, err := c.Check(t.Context(), 100)
			if err == nil && len(r.Damaged) > 0 {
				return ErrDamaged
			}
			return err
		}, true},
		"that another digest of the same bytes was proven is no proof": {func(t *testing.T, c *Cache) error {
			c.proven.add(uploadOf(t, c, d), digest.SHA512.FromBytes(right))
			return readTo(c, d, int64(len(right)))
		}, true},
		"the process that proved it takes the checksums' word": {func(t *testing.T, c *Cache) error {
			c.proven.add(uploadOf(t, c, d), d)
			return readTo(c, d, int64(len(right)))
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewMemory()
			first := New(m, m)
			u, err := first.Begin(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(right); err != nil {
				t.Fatal(err)
			}
			if err := u.Commit(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if !first.proven.has(u.ID(), d) {
				t.Error("the commit proved nothing")
			}
			if err := m.PutChunk(t.Context(), u.ID(), 0, seal(chunkName(u.ID(), 0), bytes.Clone(wrong[:ChunkSize]))); err != nil {
				t.Fatal(err)
			}
			err = test.look(t, New(m, m))
			if noticed := errors.Is(err, ErrDamaged); noticed != test.noticed {
				t.Errorf("noticed: %t (%v), want %t", noticed, err, test.noticed)
			}
		})
	}
}

func TestABlobThatWasDamagedIsNotProven(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	p := []byte("some bytes")
	d := digest.FromBytes(p)
	u, err := c.Begin(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := m.PutChunk(t.Context(), u.ID(), 0, []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	if err := readTo(c, d, int64(len(p))); !errors.Is(err, ErrDamaged) {
		t.Errorf("read: %v", err)
	}
	if c.proven.has(u.ID(), d) {
		t.Error("it still counts as proven")
	}
}

// readTo reads the first n bytes of the blob.
func readTo(c *Cache, d digest.Digest, n int64) error {
	b, err := c.Open(context.Background(), d)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = io.CopyN(io.Discard, b, n)
	return err
}

func uploadOf(t *testing.T, c *Cache, d digest.Digest) string {
	t.Helper()
	record, _, err := c.record(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return record.Upload
}
