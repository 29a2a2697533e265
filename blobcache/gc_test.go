package blobcache_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// aged is a cache whose clock a test moves.
type aged struct {
	*blobcache.Cache
	t   *testing.T
	mu  sync.Mutex
	now time.Time
}

func newAged(t *testing.T, m *blobcache.Memory) *aged {
	a := &aged{Cache: blobcache.New(m, m), t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a.Now = func() time.Time {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.now
	}
	return a
}

func (a *aged) pass(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = a.now.Add(d)
}

// put commits a blob of 1000 bytes.
func (a *aged) put(seed int) digest.Digest {
	a.t.Helper()
	p := blobcachetest.Bytes(seed, 1000)
	commit(a.t, a.Cache, p)
	return digest.FromBytes(p)
}

// collect collects twice, a grace apart.
func (a *aged) collect(l blobcache.Limits) blobcache.Collected {
	a.t.Helper()
	if _, err := a.Collect(a.t.Context(), l); err != nil {
		a.t.Fatal(err)
	}
	a.pass(11 * time.Minute)
	r, err := a.Collect(a.t.Context(), l)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// here fails unless exactly the named ones of the blobs are there. It asks in a
// cache of its own, since to ask is to use.
func (a *aged) here(m *blobcache.Memory, blobs map[string]digest.Digest, want ...string) {
	a.t.Helper()
	wanted := map[string]bool{}
	for _, name := range want {
		wanted[name] = true
	}
	c := blobcache.New(m, m)
	for name, d := range blobs {
		_, err := c.Stat(a.t.Context(), d)
		if err != nil && !errors.Is(err, blobcache.ErrUnknown) {
			a.t.Fatal(err)
		}
		if (err == nil) != wanted[name] {
			a.t.Errorf("blob %s is there: %t, want %t", name, err == nil, wanted[name])
		}
	}
}

func TestTheLeastRecentlyUsedBlobsGoFirst(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	a := newAged(t, m)
	blobs := map[string]digest.Digest{}
	for i, name := range []string{"a", "b", "c", "d"} {
		blobs[name] = a.put(i)
		a.pass(time.Hour)
	}
	if _, err := a.Stat(t.Context(), blobs["a"]); err != nil {
		t.Fatal(err)
	}
	a.pass(2 * time.Hour)
	if r := a.collect(blobcache.Limits{Quota: 2500}); r.Removed != 2 || r.Freed != 2000 || r.Bytes != 4000 {
		t.Errorf("got %+v", r)
	}
	a.here(m, blobs, "a", "d")
}

func TestBlobsThatNobodyUsesGoAfterAWhileAndThatIsRememberedAcrossRestarts(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	a := newAged(t, m)
	blobs := map[string]digest.Digest{"old": a.put(1)}
	a.pass(20 * time.Hour)
	blobs["new"] = a.put(2)
	a.collect(blobcache.Limits{MaxAge: 24 * time.Hour})
	a.here(m, blobs, "old", "new")
	b := newAged(t, m)
	b.now = a.now.Add(5 * time.Hour)
	b.collect(blobcache.Limits{MaxAge: 24 * time.Hour})
	b.here(m, blobs, "new")
}

func TestCollectSparesWhatIsInUse(t *testing.T) {
	t.Parallel()
	tests := map[string]func(a *aged, d digest.Digest, l *blobcache.Limits){
		"a young blob": func(a *aged, _ digest.Digest, _ *blobcache.Limits) { a.pass(-90 * time.Minute) },
		"a blob that a job needs": func(_ *aged, d digest.Digest, l *blobcache.Limits) {
			l.Needed = func() map[digest.Digest]bool { return map[digest.Digest]bool{d: true} }
		},
		"a blob that is pinned":           func(a *aged, d digest.Digest, _ *blobcache.Limits) { a.Pin(d); a.pass(24 * time.Hour) },
		"a blob that was pinned just now": func(a *aged, d digest.Digest, _ *blobcache.Limits) { a.Pin(d)() },
		"a blob that was asked for just now": func(a *aged, d digest.Digest, _ *blobcache.Limits) {
			if _, err := a.Stat(a.t.Context(), d); err != nil {
				a.t.Error(err)
			}
		},
		"a blob that was pushed again just now": func(a *aged, _ digest.Digest, _ *blobcache.Limits) { a.put(1) },
		"a blob that is used in its grace": func(a *aged, d digest.Digest, l *blobcache.Limits) {
			if r, err := a.Collect(a.t.Context(), *l); err != nil || r.Condemned != 1 {
				a.t.Errorf("%+v, %v", r, err)
			}
			if _, err := a.Stat(a.t.Context(), d); err != nil {
				a.t.Error(err)
			}
			a.pass(30 * time.Minute)
		},
	}
	for name, use := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := blobcache.NewMemory()
			a := newAged(t, m)
			blobs := map[string]digest.Digest{"it": a.put(1)}
			a.pass(2 * time.Hour)
			l := blobcache.Limits{Quota: 1}
			use(a, blobs["it"], &l)
			if r := a.collect(l); r.Removed != 0 || r.OverQuota != 999 {
				t.Errorf("got %+v", r)
			}
			a.here(m, blobs, "it")
		})
	}
}

func TestADryRunChangesNothing(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	a := newAged(t, m)
	blobs := map[string]digest.Digest{"it": a.put(1)}
	a.pass(2 * time.Hour)
	if r := a.collect(blobcache.Limits{Quota: 1, DryRun: true}); r.Removed != 1 || r.Freed != 1000 {
		t.Errorf("got %+v", r)
	}
	a.here(m, blobs, "it")
}

func TestNothingThatWasFoundIsCollectedAMomentLater(t *testing.T) {
	t.Parallel()
	s := openBadger(t, filepath.Join(t.TempDir(), "cache"))
	c := blobcache.New(s, s)
	limits := blobcache.Limits{Quota: 1, Young: time.Nanosecond, Grace: time.Nanosecond}
	// In this cache a second is enough to be old: what counts is that a blob
	// which was found, and is pinned since, stays.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.Collect(t.Context(), limits); err != nil {
				t.Error(err)
				return
			}
		}
	})
	removed := 0
	for i := range 150 {
		p := blobcachetest.Bytes(i%5, 2000)
		d := digest.FromBytes(p)
		unpin := c.Pin(d)
		if _, err := c.Stat(t.Context(), d); errors.Is(err, blobcache.ErrUnknown) {
			removed++
			commit(t, c, p)
		} else if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			wantStored(t, c, p)
		}
		unpin()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d of 150 had been collected", removed)
}

func TestACheckFindsDamageAndSetsItAside(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	a := newAged(t, m)
	fine, p := a.put(1), blobcachetest.Bytes(2, 3<<20)
	commit(t, a.Cache, p)
	if r, err := a.Check(t.Context(), 100); err != nil || r.Blobs != 2 || r.Read != 2 || r.Bytes != 3<<20+1000 || len(r.Damaged) != 0 {
		t.Fatalf("an intact cache: %+v, %v", r, err)
	}
	if r, err := a.Check(t.Context(), 0); err != nil || r.Read != 0 || len(r.Damaged) != 0 {
		t.Fatalf("an intact cache, not read: %+v, %v", r, err)
	}
	for upload := range m.Uploads(t.Context()) {
		chunk, err := m.GetChunk(t.Context(), upload, 1, nil)
		if err != nil {
			continue // the small one
		}
		chunk[7] ^= 1
		if err := m.PutChunk(t.Context(), upload, 1, chunk); err != nil {
			t.Fatal(err)
		}
	}
	r, err := a.Check(t.Context(), 100)
	if err != nil || len(r.Damaged) != 1 || r.Damaged[0] != digest.FromBytes(p) {
		t.Fatalf("a damaged cache: %+v, %v", r, err)
	}
	a.here(m, map[string]digest.Digest{"fine": fine, "damaged": digest.FromBytes(p)}, "fine")
	commit(t, a.Cache, p)
	wantStored(t, a.Cache, p)
}

// meeting is an index that lets something happen in the middle of its calls.
type meeting struct {
	*blobcache.Memory
	found func(key string) // after a record was read, before whoever asked has it
	goes  func(key string) // before a record is removed
}

func (m *meeting) Get(ctx context.Context, key string) ([]byte, error) {
	p, err := m.Memory.Get(ctx, key)
	if m.found != nil {
		m.found(key)
	}
	return p, err
}

func (m *meeting) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	if m.goes != nil && len(new) == 0 {
		m.goes(key)
	}
	return m.Memory.Swap(ctx, key, old, new)
}

// TestABlobThatIsUsedWhileOthersAreRemovedIsSpared: it was doomed when the
// removal of the others began.
func TestABlobThatIsUsedWhileOthersAreRemovedIsSpared(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(c *blobcache.Cache, d digest.Digest){
		"pinned":            func(c *blobcache.Cache, d digest.Digest) { c.Pin(d) },
		"pinned and let go": func(c *blobcache.Cache, d digest.Digest) { c.Pin(d)() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := blobcache.NewMemory()
			index := &meeting{Memory: m}
			a := newAged(t, m)
			a.Cache = blobcache.New(m, index)
			a.Now = func() time.Time {
				a.mu.Lock()
				defer a.mu.Unlock()
				return a.now
			}
			first := a.put(1)
			a.pass(time.Second)
			second := a.put(2)
			a.pass(2 * time.Hour)
			index.goes = func(key string) {
				if key == "blob/"+string(first) {
					use(a.Cache, second)
				}
			}
			if r := a.collect(blobcache.Limits{Quota: 1}); r.Removed != 1 {
				t.Errorf("got %+v", r)
			}
			a.here(m, map[string]digest.Digest{"first": first, "second": second}, "second")
		})
	}
}

// TestABlobThatWasJustFoundIsNotCollected: between the look for its record and
// the note of its use nobody may remove it.
func TestABlobThatWasJustFoundIsNotCollected(t *testing.T) {
	t.Parallel()
	m := blobcache.NewMemory()
	index := &meeting{Memory: m}
	a := newAged(t, m)
	a.Cache = blobcache.New(m, index)
	a.Now = func() time.Time {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.now
	}
	d := a.put(1)
	a.pass(2 * time.Hour)
	if _, err := a.Collect(t.Context(), blobcache.Limits{Quota: 1}); err != nil {
		t.Fatal(err)
	}
	a.pass(11 * time.Minute)
	collected := make(chan error, 1)
	index.found = func(key string) {
		if key != "blob/"+string(d) {
			return
		}
		index.found = nil
		go func() {
			_, err := a.Collect(context.Background(), blobcache.Limits{Quota: 1})
			collected <- err
		}()
		select {
		case err := <-collected:
			collected <- err
		case <-time.After(200 * time.Millisecond):
		}
	}
	if _, err := a.Stat(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := <-collected; err != nil {
		t.Fatal(err)
	}
	a.here(m, map[string]digest.Digest{"it": d}, "it")
}

func TestWhatThereIsIsToldDuringACollection(t *testing.T) {
	t.Parallel()
	a := newAged(t, blobcache.NewMemory())
	a.put(1)
	collecting, told, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := a.Collect(context.Background(), blobcache.Limits{Quota: 1, Needed: func() map[digest.Digest]bool {
			close(collecting)
			<-told
			return nil
		}})
		done <- err
	}()
	<-collecting
	usage := make(chan blobcache.Usage, 1)
	go func() {
		u, err := a.Usage(context.Background())
		if err != nil {
			t.Error(err)
		}
		usage <- u
	}()
	select {
	case u := <-usage:
		if u.Blobs != 1 || u.Bytes != 1000 || u.Oldest.IsZero() {
			t.Errorf("told %+v", u)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits until the collection is over")
	}
	close(told)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
