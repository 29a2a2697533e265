package blobcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"
)

func randomBytes(n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = rng.Read(p)
	return p
}

func begin(t *testing.T, c *Cache) *Upload {
	t.Helper()
	u, err := c.Begin(t.Context(), "", "owner")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func write(t *testing.T, u *Upload, p []byte) {
	t.Helper()
	if _, err := u.Write(p); err != nil {
		t.Fatal(err)
	}
}

func TestAFollowerSeesWholeChunksAtOnceAndTheRestWithTheCommit(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	body := randomBytes(3*ChunkSize + 77)
	u := begin(t, c)
	f, err := c.Follow(t.Context(), u.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write(t, u, body)
	got := make([]byte, 3*ChunkSize)
	if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, body[:3*ChunkSize]) {
		t.Fatalf("the whole chunks before the commit: %v, equal %t", err, bytes.Equal(got, body[:3*ChunkSize]))
	}
	rest := make(chan []byte)
	go func() {
		p, _ := io.ReadAll(f)
		rest <- p
	}()
	select {
	case p := <-rest:
		t.Fatalf("%d bytes and the end before the commit", len(p))
	default:
	}
	if err := u.Commit(t.Context(), digest.FromBytes(body)); err != nil {
		t.Fatal(err)
	}
	if p := <-rest; !bytes.Equal(p, body[3*ChunkSize:]) {
		t.Errorf("the rest after the commit: %d bytes, want %d", len(p), 77)
	}
	if _, err := f.Seek(5, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(f); err != nil || !bytes.Equal(p, body[5:]) {
		t.Errorf("a second reading: %d bytes, %v", len(p), err)
	}
}

func TestAFollowerGoesOnAcrossRequests(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	body := randomBytes(2*ChunkSize + 9)
	u := begin(t, c)
	id := u.ID()
	f, err := c.Follow(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, part := range [][]byte{body[:100], body[100 : ChunkSize+50], body[ChunkSize+50:]} {
		write(t, u, part)
		if err := u.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		u.Release()
		if u, err = c.Resume(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Commit(t.Context(), digest.FromBytes(body)); err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(f); err != nil || !bytes.Equal(p, body) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
}

func TestAFollowerOfADoubleReadsTheCopyThatStays(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	body := randomBytes(ChunkSize + 9)
	first, second := begin(t, c), begin(t, c)
	f, err := c.Follow(t.Context(), second.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, u := range []*Upload{first, second} {
		write(t, u, body)
		if err := u.Commit(t.Context(), digest.FromBytes(body)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := io.ReadAll(f); err != nil || !bytes.Equal(p, body) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
}

func TestAFollowerEndsWhereTheUploadDoes(t *testing.T) {
	t.Parallel()
	for says, end := range map[string]func(*testing.T, *Upload) error{
		"cancelled":            func(t *testing.T, u *Upload) error { return u.Cancel(t.Context()) },
		"taken back to before": func(t *testing.T, u *Upload) error { return u.Rollback(t.Context()) },
	} {
		m := NewMemory()
		c := New(m, m)
		u := begin(t, c)
		f, err := c.Follow(t.Context(), u.ID())
		if err != nil {
			t.Fatal(err)
		}
		write(t, u, randomBytes(ChunkSize+1))
		if _, err := io.ReadFull(f, make([]byte, ChunkSize)); err != nil {
			t.Fatal(err)
		}
		if err := end(t, u); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(f); !errors.Is(err, ErrEnded) {
			t.Errorf("%s: got %v, want %v", says, err, ErrEnded)
		}
		f.Close()
	}
}

func TestARollbackThatTakesNothingBackLeavesFollowersAlone(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	body := randomBytes(ChunkSize + 1)
	u := begin(t, c)
	f, err := c.Follow(t.Context(), u.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write(t, u, body[:ChunkSize])
	if err := errors.Join(u.Checkpoint(t.Context()), u.Rollback(t.Context())); err != nil {
		t.Fatal(err)
	}
	write(t, u, body[ChunkSize:])
	if err := u.Commit(t.Context(), digest.FromBytes(body)); err != nil {
		t.Fatal(err)
	}
	if p, err := io.ReadAll(f); err != nil || !bytes.Equal(p, body) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
}

func TestFollowersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	c := New(m, m)
	u := begin(t, c)
	id := u.ID()
	f, err := c.Follow(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	write(t, u, randomBytes(10))
	if err := u.Commit(t.Context(), digest.FromBytes(randomBytes(10))); err != nil {
		t.Fatal(err)
	}
	f.Close()
	f.Close()
	if len(c.lives) != 0 || len(c.open) != 0 || len(c.held) != 0 {
		t.Errorf("left: %d lives, %d open, %d held", len(c.lives), len(c.open), len(c.held))
	}
	if _, err := c.Follow(t.Context(), id); !errors.Is(err, ErrUnknown) {
		t.Errorf("an upload that ended: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	u = begin(t, c)
	if f, err = c.Follow(ctx, u.ID()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that was cancelled: got %v", err)
	}
}
