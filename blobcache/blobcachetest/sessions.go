package blobcachetest

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
)

func rollback(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p, junk := Bytes(1, 2*mib+5), Bytes(2, 17*mib+3)
	for _, kept := range []int{0, 10, mib, mib + 70<<10} {
		for _, lost := range []int{0, 1, 2 * mib, 17*mib + 3} {
			if lost > 2*mib && kept != 10 {
				continue // it stores an offset on the way, once is enough
			}
			u := begin(t, c, "")
			write(t, u, p[:kept])
			must(t, "Checkpoint", u.Checkpoint(t.Context()))
			write(t, u, junk[:lost])
			must(t, "Rollback", u.Rollback(t.Context()))
			if u.Offset() != int64(kept) || u.Base() != int64(kept) {
				t.Fatalf("offset %d after Rollback, want %d", u.Offset(), kept)
			}
			u.Release()
			u = resume(t, c, u.ID())
			if u.Offset() != int64(kept) {
				t.Fatalf("offset %d after Rollback and Resume, want %d", u.Offset(), kept)
			}
			write(t, u, p[kept:])
			d := digest.FromBytes(p)
			must(t, "Commit", u.Commit(t.Context(), d))
			wantBlob(t, c, d, p)
			must(t, "Remove", c.Remove(t.Context(), d))
		}
	}
	u := begin(t, c, "")
	write(t, u, junk[:2*mib+7])
	must(t, "Rollback", u.Rollback(t.Context()))
	write(t, u, p[:mib+3])
	must(t, "Commit", u.Commit(t.Context(), digest.FromBytes(p[:mib+3])))
	wantBlob(t, c, digest.FromBytes(p[:mib+3]), p[:mib+3])
	// The store holds a longer chunk than the one that is committed.
	u = begin(t, c, "")
	write(t, u, p[:mib/2])
	must(t, "Checkpoint", u.Checkpoint(t.Context()))
	write(t, u, p[mib/2:])
	must(t, "Rollback", u.Rollback(t.Context()))
	must(t, "Commit", u.Commit(t.Context(), digest.FromBytes(p[:mib/2])))
	wantBlob(t, c, digest.FromBytes(p[:mib/2]), p[:mib/2])
}

func resumes(t *testing.T, s Store) {
	p := Bytes(1, 3*mib)
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		u := begin(t, blobcache.New(s, s), a)
		for _, end := range []int{0, 1, 1000, mib - 1, mib, 2*mib + 12345, 3 * mib} {
			write(t, u, p[u.Offset():end])
			must(t, "Checkpoint", u.Checkpoint(t.Context()))
			if end%2 == 1 {
				u.Release()
			}
			// A new Cache knows nothing of the one before.
			c := blobcache.New(s, s)
			u = resume(t, c, u.ID())
			if u.Offset() != int64(end) || u.Owner() != "owner" || u.Algorithm() != a {
				t.Fatalf("resumed at %d for %q with %q; want %d, owner, %q", u.Offset(), u.Owner(), u.Algorithm(), end, a)
			}
		}
		d := a.FromBytes(p)
		must(t, "Commit", u.Commit(t.Context(), d))
		wantBlob(t, blobcache.New(s, s), d, p)
	}
}

func resumesLate(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 18*mib)
	u := begin(t, c, "")
	write(t, u, p[:100])
	must(t, "Checkpoint", u.Checkpoint(t.Context()))
	write(t, u, p[100:])
	u.Release() // all that a killed process would leave

	u = resume(t, blobcache.New(s, s), u.ID())
	if u.Offset() < 16*mib || u.Base() != 100 {
		t.Fatalf("resumed at %d with its start at %d; want 16 MiB or more, and 100", u.Offset(), u.Base())
	}
	must(t, "Rollback", u.Rollback(t.Context()))
	write(t, u, p[100:])
	must(t, "Commit", u.Commit(t.Context(), digest.FromBytes(p)))
	wantBlob(t, c, digest.FromBytes(p), p)
}

func oneHolder(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	u := begin(t, c, "")
	_, err := c.Resume(t.Context(), u.ID())
	wantErr(t, "Resume of a held session", err, blobcache.ErrBusy)
	u.Release()
	u.Release()
	if _, err := u.Write([]byte("x")); err == nil {
		t.Error("Write after Release succeeded")
	}
	for _, end := range []func(*blobcache.Upload) error{
		func(u *blobcache.Upload) error { return u.Cancel(t.Context()) },
		func(u *blobcache.Upload) error { return u.Commit(t.Context(), digest.FromString("")) },
	} {
		u := resume(t, c, begun(t, c))
		must(t, "end", end(u))
		if u.Cancel(t.Context()) == nil || u.Checkpoint(t.Context()) == nil || u.Rollback(t.Context()) == nil || u.Commit(t.Context(), digest.FromString("")) == nil {
			t.Error("a session that ended can be used")
		}
		_, err := c.Resume(t.Context(), u.ID())
		wantErr(t, "Resume of an ended session", err, blobcache.ErrUnknown)
	}
	for _, id := range []string{"", "x", "../../etc/passwd", "00000000000000000000000000000000", "ABCDEF00000000000000000000000000"} {
		_, err := c.Resume(t.Context(), id)
		wantErr(t, fmt.Sprintf("Resume(%q)", id), err, blobcache.ErrUnknown)
	}
	if _, err := c.Begin(t.Context(), "md5", ""); err == nil {
		t.Error("Begin took md5")
	}
}

// followed reads an upload from the start right behind its writer, from the
// middle, and when it is done, across two requests.
func followed(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 9*mib+12345)
	u := begin(t, c, "")
	var wg sync.WaitGroup
	late := make(chan struct{})
	for i, from := range []int{0, 0, 4*mib + 5, 0} {
		f, err := c.Follow(t.Context(), u.ID())
		must(t, "Follow", err)
		wg.Go(func() {
			defer f.Close()
			if i == 3 {
				<-late
			}
			if _, err := f.Seek(int64(from), io.SeekStart); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, p[from:]) {
				t.Errorf("follower %d: %d bytes from %d, %v", i, len(got), from, err)
			}
		})
	}
	for at := 0; at < len(p); at += 300_000 {
		write(t, u, p[at:min(at+300_000, len(p))])
		if at == 15*300_000 {
			must(t, "Checkpoint", u.Checkpoint(t.Context()))
			u.Release()
			u = resume(t, c, u.ID())
		}
	}
	must(t, "Commit", u.Commit(t.Context(), digest.FromBytes(p)))
	close(late)
	wg.Wait()
}

// begun returns the id of a session that nobody holds.
func begun(t *testing.T, c *blobcache.Cache) string {
	u := begin(t, c, "")
	u.Release()
	return u.ID()
}
