package blobcache

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestAFollowerNeverMixesWhatWasTakenBackWithWhatCame(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	old, body := randomBytes(3*ChunkSize+7), randomBytes(3*ChunkSize+8)
	u := begin(t, c)
	follow := func(n int) *Follower {
		f, err := c.Follow(t.Context(), u.ID())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	write(t, u, old)
	ahead, behind := follow(ChunkSize+1), follow(0)
	defer ahead.Close()
	defer behind.Close()
	if err := u.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, u, body)
	if err := u.Commit(t.Context(), digest.FromBytes(body)); err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(ahead); !errors.Is(err, ErrEnded) {
		t.Errorf("who had read what was taken back: %d more bytes and %v, want ErrEnded", len(p), err)
	}
	if _, err := ahead.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*Follower{"who begins again": ahead, "who had read nothing": behind} {
		if p, err := io.ReadAll(f); err != nil || !bytes.Equal(p, body) {
			t.Errorf("%s: %d bytes, %v; want the blob", name, len(p), err)
		}
	}
}

func TestAFollowerOfADoubleKeepsTheOtherCopy(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	body := randomBytes(3 * ChunkSize)
	first, second := begin(t, c), begin(t, c)
	f, err := c.Follow(t.Context(), second.ID())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []*Upload{first, second} {
		write(t, u, body)
		if err := u.Commit(t.Context(), digest.FromBytes(body)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(f, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), digest.FromBytes(body)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Sweep(t.Context(), 0); n != 0 || err != nil {
		t.Errorf("Sweep beside a follower: %d, %v", n, err)
	}
	if p, err := io.ReadAll(f); err != nil || !bytes.Equal(p, body[1:]) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
	f.Close()
	if n, err := c.Sweep(t.Context(), 0); n != 2 || err != nil {
		t.Errorf("Sweep after the follower: %d, %v; want both copies", n, err)
	}
	if len(c.lives) != 0 || len(c.open) != 0 {
		t.Errorf("left: %d lives, %d open", len(c.lives), len(c.open))
	}
}

func TestTwoChunksOfAFollowedUploadAreKeptInMemory(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	u := begin(t, c)
	f, err := c.Follow(t.Context(), u.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	body := randomBytes(5 * ChunkSize)
	write(t, u, body)
	if err := u.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Drop(t.Context(), u.ID()); err != nil {
		t.Fatal(err)
	}
	// What comes now can only come from memory.
	for n := range 5 {
		if _, err := f.Seek(int64(n)*ChunkSize+9, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 100)
		_, err := io.ReadFull(f, p)
		at := n*ChunkSize + 9
		if kept := err == nil && bytes.Equal(p, body[at:at+100]); kept != (n >= 3) {
			t.Errorf("chunk %d: %v, kept %t; want the last two alone", n, err, kept)
		}
	}
}
