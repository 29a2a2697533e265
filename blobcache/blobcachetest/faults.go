package blobcachetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
)

// ErrInjected is what a Failing store fails with.
var ErrInjected = errors.New("injected failure")

// Failing is a store whose calls that store something fail from the At-th on
// (the first is 1), once or, if Dead, for good. It is for one Upload: its calls never overlap.
type Failing struct {
	Store
	At   int
	Dead bool
	// Late makes the failing call do its work before it fails.
	Late  bool
	Calls int
}

func (f *Failing) fails() bool {
	f.Calls++
	return f.Calls == f.At || f.Dead && f.At > 0 && f.Calls > f.At
}

// PutChunk implements blobcache.Bodies.
func (f *Failing) PutChunk(ctx context.Context, upload string, n int, p []byte) error {
	if !f.fails() {
		return f.Store.PutChunk(ctx, upload, n, p)
	}
	if f.Late {
		_ = f.Store.PutChunk(ctx, upload, n, p)
	}
	return ErrInjected
}

// Swap implements blobcache.Index.
func (f *Failing) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	return f.SwapAll(ctx, blobcache.Change{Key: key, Old: old, New: new})
}

// SwapAll implements blobcache.Index.
func (f *Failing) SwapAll(ctx context.Context, changes ...blobcache.Change) (bool, error) {
	if !f.fails() {
		return f.Store.SwapAll(ctx, changes...)
	}
	if f.Late {
		_, _ = f.Store.SwapAll(ctx, changes...)
	}
	return false, ErrInjected
}

// PutAndSwap implements blobcache.Joint. Where it fails once and is not Late, the
// chunk is stored.
func (f *Failing) PutAndSwap(ctx context.Context, upload string, n int, p []byte, changes ...blobcache.Change) (bool, error) {
	failing := f.fails()
	if failing && f.Dead && !f.Late {
		return false, ErrInjected
	}
	if err := f.Store.PutChunk(ctx, upload, n, p); err != nil {
		return false, err
	}
	if !failing {
		return f.Store.SwapAll(ctx, changes...)
	}
	if f.Late {
		_, _ = f.Store.SwapAll(ctx, changes...)
	}
	return false, ErrInjected
}

// push sends p in two requests, as a client that gives up at the first error.
func push(c *blobcache.Cache, ctx context.Context, p []byte) (id string, err error) {
	u, err := c.Begin(ctx, "", "owner")
	if err != nil {
		return "", err
	}
	defer u.Release()
	if _, err := u.Write(p[:len(p)/2]); err != nil {
		return u.ID(), err
	}
	if err := u.Checkpoint(ctx); err != nil {
		return u.ID(), err
	}
	if _, err := u.Write(p[len(p)/2:]); err != nil {
		return u.ID(), err
	}
	return u.ID(), u.Commit(ctx, digest.FromBytes(p))
}

func failsAnywhere(t *testing.T, s Store) {
	p := Bytes(1, mib+99)
	d := digest.FromBytes(p)
	for _, kind := range []Failing{{}, {Dead: true}, {Late: true}, {Late: true, Dead: true}} {
		for at := 1; ; at++ {
			f := kind
			f.Store, f.At = s, at
			id, err := push(blobcache.New(&f, &f), t.Context(), p)
			if f.Calls < at {
				break // it went through without reaching the failure
			}
			// A new process on the store as it is now.
			c := blobcache.New(s, s)
			if _, statErr := c.Stat(t.Context(), d); statErr == nil {
				wantBlob(t, c, d, p)
			} else if err == nil {
				t.Fatalf("call %d of %+v failed, Commit succeeded, and Stat says %v", at, kind, statErr)
			}
			goOn(t, c, id, p)
			wantBlob(t, c, d, p)
			must(t, "Remove", c.Remove(t.Context(), d))
			if _, err := c.Sweep(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if left := Collect(t, s.Uploads(t.Context())); len(left) > 0 {
				t.Fatalf("call %d of %+v: chunks of %v are left", at, kind, left)
			}
		}
	}
}

// goOn finishes the push of p after a failure: from where its session is, or
// with a new one. It must find no way to break a blob that is committed.
func goOn(t *testing.T, c *blobcache.Cache, id string, p []byte) {
	t.Helper()
	u, err := c.Resume(t.Context(), id)
	if errors.Is(err, blobcache.ErrUnknown) {
		u = begin(t, c, "")
	} else {
		must(t, "Resume", err)
	}
	write(t, u, p[u.Offset():])
	must(t, "Commit", u.Commit(t.Context(), digest.FromBytes(p)))
}

func sessionOfBlob(t *testing.T, s Store) {
	p := Bytes(1, mib+99)
	f := &Failing{Store: s}
	u := begin(t, blobcache.New(f, f), "")
	write(t, u, p[:mib/2])
	must(t, "Checkpoint", u.Checkpoint(t.Context()))
	// Left are the first chunk, and one call for the second with both records: it
	// works but says that it failed.
	f.Calls, f.At, f.Late = 0, 2, true
	write(t, u, p[mib/2:])
	d := digest.FromBytes(p)
	must(t, "Commit", u.Commit(t.Context(), d))
	if f.Calls != 2 || len(Collect(t, s.Scan(t.Context(), "upload/"))) != 0 {
		t.Fatalf("%d calls; the session's record should be gone with the second", f.Calls)
	}
	c := blobcache.New(s, s)
	_, err := c.Resume(t.Context(), u.ID())
	wantErr(t, "Resume", err, blobcache.ErrUnknown)
	if n, err := c.Sweep(t.Context(), 0); n != 0 || err != nil {
		t.Fatalf("Sweep: %d, %v", n, err)
	}
	wantBlob(t, c, d, p)
}

func sweeps(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	now := time.Now()
	c.Now = func() time.Time { return now }
	p := func(i int) []byte { return Bytes(i, 1000) }
	blob := store(t, c, p(1))
	store(t, c, p(1)) // twice
	removed := store(t, c, p(2))
	must(t, "Remove", c.Remove(t.Context(), removed))
	cancelled, idle, held, recent := begin(t, c, ""), begin(t, c, ""), begin(t, c, ""), begin(t, c, "")
	for i, u := range []*blobcache.Upload{cancelled, idle, held} {
		write(t, u, p(3+i))
		must(t, "Checkpoint", u.Checkpoint(t.Context()))
	}
	must(t, "Cancel", cancelled.Cancel(t.Context()))
	idle.Release()
	now = now.Add(30 * time.Minute)
	write(t, recent, p(9))
	must(t, "Checkpoint", recent.Checkpoint(t.Context()))
	recent.Release()
	must(t, "orphan", s.PutChunk(t.Context(), "0123456789abcdef0123456789abcdef", 7, []byte("x")))
	now = now.Add(40 * time.Minute)
	for _, want := range []int{4, 0} { // removed, cancelled, idle, orphan
		if n, err := c.Sweep(t.Context(), time.Hour); n != want || err != nil {
			t.Fatalf("Sweep: %d, %v; want %d", n, err, want)
		}
	}
	left := Collect(t, s.Uploads(t.Context()))
	if len(left) != 3 || !slices.Contains(left, held.ID()) || !slices.Contains(left, recent.ID()) {
		t.Errorf("%d uploads are left, want the blob's, the held and the recent one", len(left))
	}
	wantBlob(t, c, blob, p(1))
	_, err := c.Resume(t.Context(), idle.ID())
	wantErr(t, "Resume of an idle session", err, blobcache.ErrUnknown)
	must(t, "Commit of the held one", held.Commit(t.Context(), digest.FromBytes(p(5))))
	must(t, "Commit of the recent one", resume(t, c, recent.ID()).Commit(t.Context(), digest.FromBytes(p(9))))
}

func sweepBesideReader(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 2*mib)
	d := store(t, c, p)
	b, err := c.Open(t.Context(), d)
	must(t, "Open", err)
	must(t, "Remove", c.Remove(t.Context(), d))
	if n, err := c.Sweep(t.Context(), 0); n != 0 || err != nil {
		t.Fatalf("Sweep beside a reader: %d, %v", n, err)
	}
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("read of a removed blob: %d bytes, %v", len(got), err)
	}
	must(t, "Close", b.Close())
	if n, err := c.Sweep(t.Context(), 0); n != 1 || err != nil {
		t.Fatalf("Sweep after the reader: %d, %v", n, err)
	}
}
