package blobcache_test

import (
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// setClock returns t as time.Now would after the machine's clock was set ahead by
// step: its monotonic reading does not know of that. Package time has no way to
// make such a time.
func setClock(t time.Time, step time.Duration) time.Time {
	t = t.Add(step)
	(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&t)).ext -= int64(step)
	return t
}

func TestAClockThatIsSetMakesNothingOld(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]time.Duration{"ahead": 48 * time.Hour, "back": -48 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := blobcache.NewMemory()
			a := newAged(t, m)
			a.now = time.Now()
			l := blobcache.Limits{Quota: 1500, MaxAge: 24 * time.Hour}
			blobs := map[string]digest.Digest{"old": a.put(1)}
			a.pass(2 * time.Hour)
			blobs["new"] = a.put(2)
			u, err := a.Begin(t.Context(), "", "somebody")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(blobcachetest.Bytes(3, 100)); err != nil {
				t.Fatal(err)
			}
			if err := u.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			u.Release()
			a.now = setClock(a.now, step)
			r := a.collect(l)
			if r.Removed != 1 || r.Kept != 0 {
				t.Errorf("collected %+v, want the least recently used blob to go for the quota and nothing for its age", r)
			}
			a.here(m, blobs, "new")
			if u, err = a.Resume(t.Context(), u.ID()); err != nil {
				t.Fatalf("the upload that was begun a moment before: %v", err)
			}
			u.Release()

			// The next process knows the new clock alone.
			b := newAged(t, m)
			b.now = a.now.Round(0).Add(time.Hour)
			b.collect(l)
			b.here(m, blobs, "new")
		})
	}
}

func TestAClockThatIsSetAheadShortensNoGrace(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	a := newAged(t, m)
	a.now = time.Now()
	blobs := map[string]digest.Digest{"it": a.put(1)}
	a.pass(2 * time.Hour)
	for i, want := range []blobcache.Collected{{Blobs: 1, Bytes: 1000, Condemned: 1}, {Blobs: 1, Bytes: 1000, Condemned: 1}} {
		got, err := a.Collect(t.Context(), blobcache.Limits{Quota: 1})
		if got.OverQuota = 0; err != nil || got != want {
			t.Errorf("collection %d: %+v, %v, want %+v", i+1, got, err, want)
		}
		a.now = setClock(a.now, 24*time.Hour)
	}
	a.here(m, blobs, "it")
}
