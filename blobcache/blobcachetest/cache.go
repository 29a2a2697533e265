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
	run(t, open, map[string]func(*testing.T, Store){
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
		"followers read an upload as it was written":                 followed,
		"sweep drops what nothing refers to and nothing else":        sweeps,
		"sweep spares a removed blob while somebody reads it":        sweepBesideReader,
	})
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
	for i, size := range []int{0, 1, 64<<10 + 1, mib - 1, mib, 2*mib + 17} {
		for _, session := range []digest.Algorithm{"", digest.SHA512} {
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
