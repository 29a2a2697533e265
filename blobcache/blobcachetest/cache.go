package blobcachetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
)

const mib = blobcache.ChunkSize

// TestCache checks a Cache over a store; open returns an empty one.
func TestCache(t *testing.T, open func(t *testing.T) Store) {
	for name, test := range map[string]func(*testing.T, Store){
		"a blob of any size reads back in either algorithm":          blobReadsBack,
		"a blob is unknown until its commit and after its removal":   blobComesAndGoes,
		"a wrong digest leaves the session as it was":                wrongDigest,
		"rollback forgets what came after the checkpoint":            rollback,
		"an upload resumes in a new process at its checkpoint":       resumes,
		"a broken request resumes late and rolls back to its start":  resumesLate,
		"a session has one holder, and none after its end":           oneHolder,
		"many commits of one blob keep one copy":                     oneCopy,
		"a blob's session cannot be resumed to change it":            sessionOfBlob,
		"a read moves within the blob":                               seeks,
		"damaged chunks are never served and become a miss":          damagedChunks,
		"damaged records become a miss":                              damagedRecords,
		"a store that fails at any call leaves nothing half visible": failsAnywhere,
		"sweep drops what nothing refers to and nothing else":        sweeps,
		"sweep spares a removed blob while somebody reads it":        sweepBesideReader,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func begin(t *testing.T, c *blobcache.Cache, a digest.Algorithm) *blobcache.Upload {
	t.Helper()
	u, err := c.Begin(t.Context(), a, "owner")
	if err != nil {
		t.Fatalf("Begin: %v", err)
	}
	return u
}

func resume(t *testing.T, c *blobcache.Cache, id string) *blobcache.Upload {
	t.Helper()
	u, err := c.Resume(t.Context(), id)
	if err != nil {
		t.Fatalf("Resume: %v", err)
	}
	return u
}

func write(t *testing.T, u *blobcache.Upload, p []byte) {
	t.Helper()
	if n, err := u.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write: %d of %d, %v", n, len(p), err)
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

// store commits p as a blob and returns its digest.
func store(t *testing.T, c *blobcache.Cache, p []byte) digest.Digest {
	t.Helper()
	u := begin(t, c, "")
	write(t, u, p)
	d := digest.FromBytes(p)
	must(t, "Commit", u.Commit(t.Context(), d))
	return d
}

func read(t *testing.T, c *blobcache.Cache, d digest.Digest) ([]byte, error) {
	t.Helper()
	b, err := c.Open(t.Context(), d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

func wantBlob(t *testing.T, c *blobcache.Cache, d digest.Digest, want []byte) {
	t.Helper()
	if n, err := c.Stat(t.Context(), d); n != int64(len(want)) || err != nil {
		t.Fatalf("Stat: %d, %v; want %d", n, err, len(want))
	}
	if got, err := read(t, c, d); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read: %d bytes, %v; want the %d written", len(got), err, len(want))
	}
}

func wantMiss(t *testing.T, c *blobcache.Cache, d digest.Digest) {
	t.Helper()
	_, err := c.Stat(t.Context(), d)
	wantErr(t, "Stat", err, blobcache.ErrUnknown)
	_, err = c.Open(t.Context(), d)
	wantErr(t, "Open", err, blobcache.ErrUnknown)
}

func blobReadsBack(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	for i, size := range []int{0, 1, 4095, 64<<10 + 1, mib - 1, mib, mib + 1, 3*mib + 17} {
		for _, session := range []digest.Algorithm{"", digest.SHA256, digest.SHA512} {
			for _, committed := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				p := Bytes(i, size)
				u := begin(t, c, session)
				write(t, u, p)
				d := committed.FromBytes(p)
				must(t, fmt.Sprintf("Commit of %d bytes, session %q, digest %s", size, session, committed), u.Commit(t.Context(), d))
				wantBlob(t, c, d, p)
				must(t, "Barrier", c.Barrier(t.Context(), d))
			}
		}
	}
}

func blobComesAndGoes(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, mib+9)
	d := digest.FromBytes(p)
	u := begin(t, c, "")
	write(t, u, p)
	must(t, "Checkpoint", u.Checkpoint(t.Context()))
	wantMiss(t, c, d)
	wantErr(t, "Barrier", c.Barrier(t.Context(), d), blobcache.ErrUnknown)
	must(t, "Commit", u.Commit(t.Context(), d))
	wantBlob(t, c, d, p)
	must(t, "Remove", c.Remove(t.Context(), d))
	wantMiss(t, c, d)
	wantErr(t, "Remove", c.Remove(t.Context(), d), blobcache.ErrUnknown)
	for _, bad := range []digest.Digest{"", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e", "../x"} {
		if _, err := c.Stat(t.Context(), bad); err == nil || errors.Is(err, blobcache.ErrUnknown) {
			t.Errorf("Stat(%q): %v, want an invalid digest", bad, err)
		}
	}
}

func wrongDigest(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 2*mib+5)
	u := begin(t, c, "")
	write(t, u, p[:mib+1])
	for _, wrong := range []digest.Digest{digest.FromBytes(p), digest.SHA512.FromBytes(p)} {
		wantErr(t, "Commit", u.Commit(t.Context(), wrong), blobcache.ErrDigestMismatch)
		wantMiss(t, c, wrong)
	}
	if u.Offset() != mib+1 {
		t.Fatalf("offset %d after a mismatch, want %d", u.Offset(), mib+1)
	}
	write(t, u, p[mib+1:])
	must(t, "Commit", u.Commit(t.Context(), digest.FromBytes(p)))
	wantBlob(t, c, digest.FromBytes(p), p)
}

func rollback(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p, junk := Bytes(1, 2*mib+5), Bytes(2, 17*mib+3)
	for _, kept := range []int{0, 10, mib, mib + 70<<10} {
		for _, lost := range []int{0, 1, 2 * mib, 17*mib + 3} {
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

// begun returns the id of a session that nobody holds.
func begun(t *testing.T, c *blobcache.Cache) string {
	u := begin(t, c, "")
	u.Release()
	return u.ID()
}

func oneCopy(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 100<<10)
	d := digest.FromBytes(p)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			u, err := c.Begin(t.Context(), "", "")
			if err == nil {
				_, err = u.Write(p)
			}
			if err == nil {
				err = u.Commit(t.Context(), d)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := c.Sweep(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if n := len(Collect(t, s.Uploads(t.Context()))); n != 1 {
		t.Errorf("%d copies, want 1", n)
	}
	if n := len(Collect(t, s.Scan(t.Context(), "upload/"))); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	wantBlob(t, c, d, p)
}
