package metadata_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/metadata"
)

// job returns a job with every field set that a caller sets.
func job(name string) metadata.Job {
	return metadata.Job{
		Principal: "token:ci/x", Owner: alice, Credential: "docker_config",
		Repo: app(name), Tags: []string{"v1", "latest"}, Digest: numbered(1),
		MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 421, State: metadata.JobQueued,
		Attempts: 2, NotBefore: time.Date(2026, 11, 21, 12, 0, 0, 1, time.UTC), Error: "upstream down",
	}
}

// listed returns the names of the queued repositories in order.
func listed(t *testing.T, db *metadata.DB) []string {
	t.Helper()
	var names []string
	for j, err := range db.Jobs(t.Context()) {
		must(t, err)
		names = append(names, j.Repo.Name)
	}
	return names
}

func TestAJobKeepsEveryField(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		added, err := db.AddJob(ctx, job("a"))
		must(t, err)
		want := job("a")
		want.ID, want.Revision, want.Created, want.Updated = added.ID, 1, added.Created, added.Updated
		if !reflect.DeepEqual(added, want) || added.ID == "" || time.Since(added.Created) > time.Minute {
			t.Errorf("added: got %+v, want %+v", added, want)
		}
		got, ok, err := db.Job(ctx, added.ID)
		if err != nil || !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("read: got %+v, %v, %v, want %+v", got, ok, err, want)
		}
		for _, id := range []string{"", "x", added.ID + "0"} {
			if _, ok, err := db.Job(ctx, id); ok || err != nil {
				t.Errorf("job %q: got %v, %v", id, ok, err)
			}
		}
		must(t, db.RemoveJob(ctx, added.ID))
		must(t, db.RemoveJob(ctx, added.ID))
		if _, ok, err := db.Job(ctx, added.ID); ok || err != nil {
			t.Errorf("removed job: got %v, %v", ok, err)
		}
	})
}

func TestJobsComeInOrderOfCreation(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		lose func(t *testing.T, kv metadata.KV) // before each job but the first
	}{
		{"as they were added", func(*testing.T, metadata.KV) {}},
		{"although the counter is lost", func(t *testing.T, kv metadata.KV) {
			record, err := kv.Get(t.Context(), "sequence/job/")
			must(t, err)
			_, err = kv.Swap(t.Context(), "sequence/job/", record, nil)
			must(t, err)
		}},
		{"although the counter is damaged", func(t *testing.T, kv metadata.KV) {
			record, err := kv.Get(t.Context(), "sequence/job/")
			must(t, err)
			_, err = kv.Swap(t.Context(), "sequence/job/", record, []byte("?"))
			must(t, err)
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kv, at := &metadata.Memory{}, time.Now()
			// The clock runs backwards: it must not matter.
			db := &metadata.DB{KV: kv, Now: func() time.Time { at = at.Add(-time.Hour); return at }}
			var want []string
			for n := range 40 {
				if n > 0 {
					c.lose(t, kv)
				}
				name := fmt.Sprint("r", n)
				_, err := db.AddJob(t.Context(), job(name))
				must(t, err)
				want = append(want, name)
			}
			if got := listed(t, db); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestConcurrentJobsAllGetTheirOwnID(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db := &metadata.DB{KV: kv}
		var group sync.WaitGroup
		for n := range 32 {
			group.Go(func() {
				if _, err := db.AddJob(t.Context(), job(fmt.Sprint("r", n))); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := listed(t, db); len(got) != 32 {
			t.Errorf("got %d jobs, want 32", len(got))
		}
	})
}

func TestUpdateJobChangesOnlyTheJobThatWasRead(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		first, err := db.AddJob(ctx, job("a"))
		must(t, err)
		next := first
		next.State, next.Attempts = metadata.JobRunning, 3
		next.Created = time.Time{}
		second, err := db.UpdateJob(ctx, next)
		must(t, err)
		if second.State != metadata.JobRunning || second.Attempts != 3 || second.Revision != 2 || !second.Created.Equal(first.Created) {
			t.Errorf("updated: got %+v", second)
		}
		stale := first
		stale.State = metadata.JobParked
		if _, err := db.UpdateJob(ctx, stale); !errors.Is(err, metadata.ErrConflict) {
			t.Errorf("update of a changed job: got %v, want ErrConflict", err)
		}
		if got, _, err := db.Job(ctx, first.ID); err != nil || !reflect.DeepEqual(got, second) {
			t.Errorf("the stale update left %+v, %v, want %+v", got, err, second)
		}
		must(t, db.RemoveJob(ctx, first.ID))
		if _, err := db.UpdateJob(ctx, second); !errors.Is(err, metadata.ErrConflict) {
			t.Errorf("update of a removed job: got %v, want ErrConflict", err)
		}
		if got := listed(t, db); len(got) != 0 {
			t.Errorf("the update brought back %v", got)
		}
	})
}

func TestOneOfManyUpdatesWins(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		j, err := db.AddJob(ctx, job("a"))
		must(t, err)
		results := make(chan error, 16)
		for range cap(results) {
			go func() {
				_, err := db.UpdateJob(ctx, j)
				results <- err
			}()
		}
		won := 0
		for range cap(results) {
			if err := <-results; err == nil {
				won++
			} else if !errors.Is(err, metadata.ErrConflict) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d updates of one revision succeeded, want 1", won)
		}
	})
}

func TestADamagedJobIsAnErrorAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		var ids []string
		for n := range 3 {
			j, err := db.AddJob(ctx, job(fmt.Sprint("r", n)))
			must(t, err)
			ids = append(ids, j.ID)
		}
		key := "job/" + ids[1] + "/"
		record, err := kv.Get(ctx, key)
		must(t, err)
		spoilt := slices.Clone(record)
		spoilt[len(spoilt)/2] ^= 1
		_, err = kv.Swap(ctx, key, record, spoilt)
		must(t, err)
		if _, ok, err := db.Job(ctx, ids[1]); ok || !errors.Is(err, metadata.ErrDamaged) || !strings.Contains(err.Error(), ids[1]) {
			t.Errorf("read: got %v, %v, want ErrDamaged that names the job", ok, err)
		}
		if _, err := db.UpdateJob(ctx, metadata.Job{ID: ids[1], Revision: 1}); !errors.Is(err, metadata.ErrDamaged) {
			t.Errorf("update: got %v, want ErrDamaged", err)
		}
		var seen []string
		for j, err := range db.Jobs(ctx) {
			seen = append(seen, fmt.Sprint(j.ID, " ", errors.Is(err, metadata.ErrDamaged)))
		}
		if want := []string{ids[0] + " false", ids[1] + " true", ids[2] + " false"}; !slices.Equal(seen, want) {
			t.Errorf("listed: got %v, want %v", seen, want)
		}
		must(t, db.RemoveJob(ctx, ids[1]))
		if got := listed(t, db); !slices.Equal(got, []string{"r0", "r2"}) {
			t.Errorf("after the removal: got %v", got)
		}
	})
}

func TestTheLoopOverJobsMayChangeAndRemoveThem(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		for n := range 4 {
			_, err := db.AddJob(ctx, job(fmt.Sprint("r", n)))
			must(t, err)
		}
		for j, err := range db.Jobs(ctx) {
			must(t, err)
			if j.Repo.Name == "r1" {
				must(t, db.RemoveJob(ctx, j.ID))
				continue
			}
			j.State = metadata.JobParked
			_, err = db.UpdateJob(ctx, j)
			must(t, err)
		}
		if got := listed(t, db); !slices.Equal(got, []string{"r0", "r2", "r3"}) {
			t.Errorf("left are %v", got)
		}
	})
}
