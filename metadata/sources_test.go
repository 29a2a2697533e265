package metadata_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pushproxy/metadata"
	"pushproxy/oci"
)

var (
	alice = metadata.Owner{1}
	bob   = metadata.Owner{2}
)

// app returns a repository of ghcr.io.
func app(name string) oci.Repo { return oci.Repo{Host: "ghcr.io", Name: name} }

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantSources checks what Sources returns for ghcr.io.
func wantSources(t *testing.T, db *metadata.DB, o metadata.Owner, n int, want ...oci.Repo) {
	t.Helper()
	got, err := db.Sources(t.Context(), o, numbered(n), "ghcr.io")
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("sources: got %v, %v, want %v", got, err, want)
	}
}

func TestSourcesAreNewestFirstWithoutDuplicates(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		wantSources(t, db, alice, 1)
		for _, name := range []string{"a", "b", "c", "a", "a"} {
			must(t, db.AddSource(ctx, alice, numbered(1), app(name)))
		}
		wantSources(t, db, alice, 1, app("a"), app("c"), app("b"))
		must(t, db.DropSource(ctx, alice, numbered(1), app("c")))
		must(t, db.DropSource(ctx, alice, numbered(1), app("never")))
		wantSources(t, db, alice, 1, app("a"), app("b"))
		must(t, db.AddSource(ctx, alice, numbered(1), app("c")))
		wantSources(t, db, alice, 1, app("c"), app("a"), app("b"))
	})
}

func TestSourcesOfOneOwnerHostAndDigestOnly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		elsewhere := oci.Repo{Host: "ghcr.io:443", Name: "a"}
		must(t, db.AddSource(ctx, alice, numbered(1), app("secret")))
		must(t, db.AddSource(ctx, alice, numbered(1), elsewhere))
		wantSources(t, db, bob, 1)
		wantSources(t, db, metadata.Owner{}, 1)
		wantSources(t, db, alice, 2)
		wantSources(t, db, alice, 1, app("secret"))
		must(t, db.AddSource(ctx, bob, numbered(1), app("public")))
		must(t, db.DropSource(ctx, bob, numbered(1), app("secret")))
		wantSources(t, db, bob, 1, app("public"))
		wantSources(t, db, alice, 1, app("secret"))
	})
}

func TestTheFiftyFirstSourceIsForgotten(t *testing.T) {
	t.Parallel()
	db := &metadata.DB{KV: &metadata.Memory{}}
	var want []oci.Repo
	for n := range 51 {
		must(t, db.AddSource(t.Context(), alice, numbered(1), app(fmt.Sprint("r", n))))
		want = append([]oci.Repo{app(fmt.Sprint("r", n))}, want...)
	}
	wantSources(t, db, alice, 1, want[:50]...)
}

func TestSourcesAgreeWithAModelOverRandomHistories(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		const seed = 11
		random := rand.New(rand.NewPCG(seed, seed))
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		type place struct {
			o metadata.Owner
			n int
		}
		model := map[place][]oci.Repo{}
		for range 600 {
			at := place{metadata.Owner{byte(random.IntN(2))}, random.IntN(2)}
			r := app(fmt.Sprint("r", random.IntN(70)))
			rest := slices.DeleteFunc(slices.Clone(model[at]), func(s oci.Repo) bool { return s == r })
			if random.IntN(8) == 0 {
				must(t, db.DropSource(ctx, at.o, numbered(at.n), r))
			} else {
				must(t, db.AddSource(ctx, at.o, numbered(at.n), r))
				rest = append([]oci.Repo{r}, rest...)
			}
			model[at] = rest[:min(len(rest), 50)]
			wantSources(t, db, at.o, at.n, model[at]...)
		}
	})
}

func TestConcurrentAddsLoseNoSource(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db := &metadata.DB{KV: kv}
		var group sync.WaitGroup
		for n := range 40 {
			group.Go(func() {
				if err := db.AddSource(t.Context(), alice, numbered(1), app(fmt.Sprint("r", n))); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		got, err := db.Sources(t.Context(), alice, numbered(1), "ghcr.io")
		slices.SortFunc(got, func(a, b oci.Repo) int { return len(a.Name) - len(b.Name) })
		if err != nil || len(got) != 40 {
			t.Errorf("got %d sources, %v, want 40", len(got), err)
		}
	})
}

// losing is a store on which every race is lost.
type losing struct{ metadata.Memory }

func (*losing) Swap(context.Context, string, []byte, []byte) (bool, error) { return false, nil }

func TestARecordThatNeverStopsChangingIsAnError(t *testing.T) {
	t.Parallel()
	db := &metadata.DB{KV: &losing{}}
	if err := db.AddSource(t.Context(), alice, numbered(1), app("a")); err == nil {
		t.Error("no error, want one after many lost races")
	}
}

func TestRank(t *testing.T) {
	t.Parallel()
	repos := func(names ...string) (list []oci.Repo) {
		for _, name := range names {
			list = append(list, app(name))
		}
		return list
	}
	// More than a sort that is not stable leaves in order by luck.
	var near, far, mixed []string
	for n := range 40 {
		near, far = append(near, fmt.Sprint("a/", n)), append(far, fmt.Sprint("x", n))
		mixed = append(mixed, far[n], near[n])
	}
	cases := []struct {
		name       string
		candidates []oci.Repo
		target     string
		limit      int
		want       []oci.Repo
	}{
		{"nothing comes of nothing", nil, "a", 3, nil},
		{"newest first among equals", repos("x", "y", "z"), "a", 3, repos("x", "y", "z")},
		{"newest first among many equals", repos(mixed...), "a/b", 99, repos(append(near, far...)...)},
		{"more common leading components first", repos("x/y", "a/x", "a/b/x", "a/y"), "a/b/c", 9, repos("a/b/x", "a/x", "a/y", "x/y")},
		{"a common component counts only after equal ones", repos("x/b/c", "a/x/c"), "a/b/c", 9, repos("a/x/c", "x/b/c")},
		{"part of a component is not a component", repos("team-a", "team/x"), "team/app", 9, repos("team/x", "team-a")},
		{"the target itself is left out", repos("a/b", "a/c"), "a/b", 9, repos("a/c")},
		{"another host is left out", []oci.Repo{{Host: "quay.io", Name: "a/b"}, app("a/c")}, "a/b", 9, repos("a/c")},
		{"at most the limit, the best of them", repos("x", "y", "a/x"), "a/b", 2, repos("a/x", "x")},
		{"a limit of zero or less is none", repos("x"), "a", -1, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			given := slices.Clone(c.candidates)
			if got := metadata.Rank(c.candidates, app(c.target), c.limit); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if !slices.Equal(given, c.candidates) {
				t.Errorf("the candidates were changed: %v", c.candidates)
			}
		})
	}
}
