package metadata_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// wantGranted checks what Granted says.
func wantGranted(t *testing.T, db *metadata.DB, principal string, n int, want bool) {
	t.Helper()
	if got, err := db.Granted(t.Context(), principal, numbered(n)); err != nil || got != want {
		t.Fatalf("%q granted %d: got %v, %v, want %v", principal, n, got, err, want)
	}
}

func TestAGrantIsForOnePrincipalAndOneDigest(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		names := []string{"a", "b", "a/b", "a/", "a%2F", "A", "ä", "a\x00", " ", "token:ci/x", strings.Repeat("long", 200)}
		for n, name := range names {
			for m := range names {
				wantGranted(t, db, name, m, m < n && names[m] == name)
			}
			must(t, db.Grant(ctx, name, numbered(n)))
			for _, other := range names {
				wantGranted(t, db, other, n, other == name)
			}
		}
		must(t, db.Grant(ctx, "a", numbered(1)))
		must(t, db.Revoke(ctx, "a", numbered(1)))
		must(t, db.Revoke(ctx, "a", numbered(99)))
		wantGranted(t, db, "a", 1, false)
		wantGranted(t, db, "b", 1, true)
		must(t, db.Grant(ctx, "a", numbered(1)))
		wantGranted(t, db, "a", 1, true)
	})
}

func TestRevokingAllLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	db, ctx := &metadata.DB{KV: &metadata.Memory{}}, t.Context()
	for n := range 3 {
		must(t, db.Grant(ctx, "a", numbered(n)))
		must(t, db.Grant(ctx, "a/b", numbered(n)))
		must(t, db.Grant(ctx, "ab", numbered(n)))
	}
	must(t, db.RevokeAll(ctx, "a"))
	for n := range 3 {
		wantGranted(t, db, "a", n, false)
		wantGranted(t, db, "a/b", n, true)
		wantGranted(t, db, "ab", n, true)
	}
}

func TestNobodyIsGrantedAnything(t *testing.T) {
	t.Parallel()
	db := &metadata.DB{KV: &metadata.Memory{}}
	if err := db.Grant(t.Context(), "", numbered(1)); err == nil {
		t.Error("a grant without a principal is taken")
	}
	wantGranted(t, db, "", 1, false)
}

func TestTenThousandGrants(t *testing.T) {
	t.Parallel()
	db := &metadata.DB{KV: openBadger(t, t.TempDir()+"/meta")}
	done := make(chan error)
	const writers, each = 50, 200
	for w := range writers {
		go func() {
			var err error
			for n := range each {
				if err == nil {
					err = db.Grant(t.Context(), "local", numbered(w*each+n))
				}
			}
			done <- err
		}()
	}
	for range writers {
		must(t, <-done)
	}
	for n := range writers * each {
		wantGranted(t, db, "local", n, true)
	}
}

// writes counts the swaps that reach a store.
type writes struct {
	metadata.Memory
	count int
}

func (w *writes) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	w.count++
	return w.Memory.Swap(ctx, key, old, new)
}

func TestWhatIsKnownAlreadyIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := &writes{}
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		steps := []struct {
			name string
			do   func() error
			want int
		}{
			{"a first grant", func() error { return db.Grant(ctx, "a", numbered(1)) }, 1},
			{"the same grant later", func() error {
				time.Sleep(time.Hour)
				return db.Grant(ctx, "a", numbered(1))
			}, 0},
			{"a first source", func() error { return db.AddSource(ctx, alice, numbered(1), app("a")) }, 1},
			{"the same source", func() error { return db.AddSource(ctx, alice, numbered(1), app("a")) }, 0},
			{"a first presence", func() error { return db.SetPresence(ctx, app("a"), numbered(1), metadata.Seen, 5) }, 1},
			{"the same presence within the minute", func() error {
				time.Sleep(59 * time.Second)
				return db.SetPresence(ctx, app("a"), numbered(1), metadata.Seen, 5)
			}, 0},
			{"the same presence after the minute", func() error {
				time.Sleep(time.Second)
				return db.SetPresence(ctx, app("a"), numbered(1), metadata.Seen, 5)
			}, 1},
			{"other evidence", func() error { return db.SetPresence(ctx, app("a"), numbered(1), metadata.Mounted, 5) }, 1},
			{"another size", func() error { return db.SetPresence(ctx, app("a"), numbered(1), metadata.Mounted, 6) }, 1},
			{"a clock that was set back", func() error {
				db.Now = func() time.Time { return time.Now().Add(-time.Hour) }
				return db.SetPresence(ctx, app("a"), numbered(1), metadata.Mounted, 6)
			}, 1},
			{"forgetting what is unknown", func() error { return db.ForgetPresence(ctx, app("b"), numbered(1)) }, 0},
		}
		for _, step := range steps {
			before := kv.count
			must(t, step.do())
			if got := kv.count - before; got != step.want {
				t.Errorf("%s: got %d writes, want %d", step.name, got, step.want)
			}
		}
	})
}

func TestPresenceIsOfOneRepository(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		at := time.Date(2026, 11, 21, 12, 0, 0, 5, time.FixedZone("", 3600))
		db, ctx := &metadata.DB{KV: kv, Now: func() time.Time { return at }}, t.Context()
		known := func(repo oci.Repo, n int) bool {
			t.Helper()
			p, ok, err := db.Presence(ctx, repo, numbered(n))
			must(t, err)
			want := metadata.Presence{When: at.UTC(), How: metadata.Uploaded, Size: 7}
			if ok && p != want || !ok && p != (metadata.Presence{}) {
				t.Errorf("presence: got %+v, want %+v", p, want)
			}
			return ok
		}
		repos := []oci.Repo{app("a"), app("a/b"), app("ab"), {Host: "ghcr.io/a", Name: "b"}, {Host: "localhost:5000", Name: "a"}}
		for n, repo := range repos {
			for m := range repos {
				if known(repo, m) {
					t.Fatalf("%v is known to hold %d", repo, m)
				}
			}
			must(t, db.SetPresence(ctx, repo, numbered(n), metadata.Uploaded, 7))
			must(t, db.SetPresence(ctx, repo, numbered(99), metadata.Uploaded, 7))
			if !known(repo, n) {
				t.Fatalf("%v is not known to hold %d", repo, n)
			}
		}
		must(t, db.ForgetPresence(ctx, app("a"), numbered(0)))
		if known(app("a"), 0) || !known(app("a"), 99) {
			t.Error("forgetting one digest did not forget just that")
		}
		must(t, db.ForgetRepo(ctx, app("a")))
		if known(app("a"), 99) {
			t.Error("a forgotten repository is known to hold something")
		}
		for n, repo := range repos[1:] {
			if !known(repo, n+1) || !known(repo, 99) {
				t.Errorf("%v was forgotten too", repo)
			}
		}
		must(t, db.SetPresence(ctx, app("a"), numbered(0), metadata.Uploaded, 7))
		if !known(app("a"), 0) || known(app("a"), 99) {
			t.Error("what was forgotten came back with something else")
		}
	})
}

// damage replaces every record by a spoilt version of it.
func damage(t *testing.T, kv metadata.KV, spoil func(key string, value []byte) []byte) {
	t.Helper()
	for entry, err := range kv.Scan(t.Context(), "") {
		must(t, err)
		done, err := kv.Swap(t.Context(), entry.Key, entry.Value, spoil(entry.Key, bytes.Clone(entry.Value)))
		if err != nil || !done {
			t.Fatalf("damage %s: %v, %v", entry.Key, done, err)
		}
	}
}

func TestADamagedFactIsAMissAndCanBeWrittenAnew(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(key string, value []byte) []byte{
		"a flipped first byte":  func(_ string, v []byte) []byte { v[0] ^= 1; return v },
		"a flipped byte inside": func(_ string, v []byte) []byte { v[len(v)/2] ^= 0x20; return v },
		"a flipped last byte":   func(_ string, v []byte) []byte { v[len(v)-1] ^= 0x80; return v },
		"a missing end":         func(_ string, v []byte) []byte { return v[:len(v)-1] },
		"one byte left":         func(_ string, v []byte) []byte { return v[:1] },
		"an added byte":         func(_ string, v []byte) []byte { return append(v, 0) },
	}
	for name, spoil := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, ctx := &metadata.DB{KV: &metadata.Memory{}}, t.Context()
			raw := []byte("{}")
			d := digestOf(raw)
			write := func() {
				must(t, db.Grant(ctx, "a", d))
				must(t, db.AddSource(ctx, alice, d, app("a")))
				must(t, db.SetPresence(ctx, app("a"), d, metadata.Seen, 2))
				must(t, db.PutManifest(ctx, app("a"), d, metadata.Manifest{MediaType: "m", Raw: raw}))
				must(t, db.SetTag(ctx, app("a"), "latest", metadata.Tag{Digest: d}))
			}
			check := func(want bool) {
				t.Helper()
				granted, err1 := db.Granted(ctx, "a", d)
				sources, err2 := db.Sources(ctx, alice, d, "ghcr.io")
				_, present, err3 := db.Presence(ctx, app("a"), d)
				_, manifest, err4 := db.Manifest(ctx, app("a"), d)
				_, tag, err5 := db.Tag(ctx, app("a"), "latest")
				tags, err6 := db.Tags(ctx, app("a"))
				for _, err := range []error{err1, err2, err3, err4, err5, err6} {
					must(t, err)
				}
				got := fmt.Sprint(granted, len(sources) == 1, present, manifest, tag, len(tags) == 1)
				if all := fmt.Sprint(want, want, want, want, want, want); got != all {
					t.Errorf("got %s, want %s", got, all)
				}
			}
			write()
			check(true)
			damage(t, db.KV, spoil)
			check(false)
			write()
			check(true)
		})
	}
}

func TestARecordUnderAnotherKeyIsAMiss(t *testing.T) {
	t.Parallel()
	kv := &metadata.Memory{}
	db, ctx := &metadata.DB{KV: kv}, t.Context()
	must(t, db.Grant(ctx, "a", numbered(1)))
	for entry, err := range kv.Scan(ctx, "grant/") {
		must(t, err)
		_, err = kv.Swap(ctx, strings.Replace(entry.Key, "/a/", "/b/", 1), nil, entry.Value)
		must(t, err)
	}
	wantGranted(t, db, "b", 1, false)
}
