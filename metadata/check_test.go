package metadata_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// facts puts a record of each kind into a KV.
func facts(t *testing.T, db *metadata.DB) (repo oci.Repo) {
	t.Helper()
	ctx := t.Context()
	repo = oci.Repo{Host: "registry.test", Name: "acme/app"}
	raw := []byte(`{"schemaVersion":2}`)
	d := digestOf(raw)
	_, err := db.KeyedBy(ctx, "one secret")
	must(t, err)
	must(t, db.Grant(ctx, "alice", d))
	must(t, db.AddSource(ctx, metadata.Owner{1}, d, repo))
	must(t, db.SetPresence(ctx, repo, d, metadata.Seen, 7))
	must(t, db.PutManifest(ctx, repo, d, metadata.Manifest{MediaType: "m", Raw: raw}))
	must(t, db.SetTag(ctx, repo, "v1", metadata.Tag{Digest: d, MediaType: "m", Size: 7}))
	must(t, db.SetSession(ctx, metadata.Owner{1}, repo, d, []byte("sealed")))
	_, err = db.AddJob(ctx, metadata.Job{Principal: "alice", Repo: repo, Digest: d, State: metadata.JobQueued})
	must(t, err)
	return repo
}

func TestACheckOfSoundRecordsChangesNothing(t *testing.T) {
	t.Parallel()
	db := &metadata.DB{KV: &metadata.Memory{}}
	facts(t, db)
	before := entries(t, db)
	r, err := db.Check(t.Context())
	must(t, err)
	if len(r.Dropped)+len(r.Kept) > 0 || len(r.Records) != 9 {
		t.Errorf("%+v", r)
	}
	if after := entries(t, db); len(after) != len(before) {
		t.Errorf("%d records, %d were", len(after), len(before))
	}
}

func entries(t *testing.T, db *metadata.DB) (all []metadata.Entry) {
	t.Helper()
	for e, err := range db.KV.Scan(t.Context(), "") {
		must(t, err)
		all = append(all, e)
	}
	return all
}

// TestACheckFindsEveryDamagedRecord changes one byte of one record, cuts it
// short, empties it, or moves it to another key, for every record there is.
func TestACheckFindsEveryDamagedRecord(t *testing.T) {
	t.Parallel()
	damages := map[string]func(e metadata.Entry) metadata.Entry{
		"a flipped bit": func(e metadata.Entry) metadata.Entry {
			e.Value = bytes.Clone(e.Value)
			e.Value[len(e.Value)/2] ^= 4
			return e
		},
		"cut short": func(e metadata.Entry) metadata.Entry {
			e.Value = e.Value[:len(e.Value)-1]
			return e
		},
		"one byte": func(e metadata.Entry) metadata.Entry {
			e.Value = []byte{1}
			return e
		},
		"under another key": func(e metadata.Entry) metadata.Entry {
			kind, rest, _ := strings.Cut(e.Key, "/")
			e.Key = kind + "/x" + rest
			return e
		},
	}
	model := &metadata.DB{KV: &metadata.Memory{}}
	facts(t, model)
	for name, damage := range damages {
		for i, victim := range entries(t, model) {
			kind, _, _ := strings.Cut(victim.Key, "/")
			t.Run(fmt.Sprintf("%s: %s", name, kind), func(t *testing.T) {
				t.Parallel()
				db, bad := &metadata.DB{KV: &metadata.Memory{}}, damage(victim)
				for k, e := range entries(t, model) {
					if k == i {
						e = bad
					}
					_, err := db.KV.Swap(t.Context(), e.Key, nil, e.Value)
					must(t, err)
				}
				r, err := db.Check(t.Context())
				must(t, err)
				left := slices.ContainsFunc(entries(t, db), func(e metadata.Entry) bool { return e.Key == bad.Key })
				if kind == "job" && (len(r.Kept) != 1 || len(r.Dropped) != 0 || !left) {
					t.Errorf("a job is a promise: %+v, it is there: %t", r, left)
				}
				if kind != "job" && (!slices.Equal(r.Dropped, []string{bad.Key}) || len(r.Kept) != 0 || left) {
					t.Errorf("%+v, it is there: %t", r, left)
				}
				if again, err := db.Check(t.Context()); err != nil || len(again.Dropped) > 0 || len(again.Kept) != len(r.Kept) {
					t.Errorf("a second check: %+v, %v", again, err)
				}
			})
		}
	}
}

func TestDamageNeverWidensWhoMaySeeABlob(t *testing.T) {
	t.Parallel()
	d := digestOf([]byte("a blob"))
	for at := range 40 {
		db, ctx := &metadata.DB{KV: &metadata.Memory{}}, t.Context()
		must(t, db.Grant(ctx, "alice", d))
		e := entries(t, db)[0]
		// The record with a changed byte, and moved to another principal.
		bad := bytes.Clone(e.Value)
		bad[at%len(bad)] ^= 1
		_, err := db.KV.Swap(ctx, e.Key, e.Value, bad)
		must(t, err)
		_, err = db.KV.Swap(ctx, strings.Replace(e.Key, "alice", "mallory", 1), nil, e.Value)
		must(t, err)
		for range 2 {
			for _, who := range []string{"alice", "mallory", "bob"} {
				if ok, err := db.Granted(ctx, who, d); ok || err != nil {
					t.Fatalf("byte %d: %s may see it: %t, %v", at, who, ok, err)
				}
			}
			for g, err := range db.Grants(ctx) {
				t.Fatalf("a damaged grant is listed: %v, %v", g, err)
			}
			_, err := db.Check(ctx)
			must(t, err)
		}
		must(t, db.Grant(ctx, "alice", d))
		if ok, err := db.Granted(ctx, "alice", d); !ok || err != nil {
			t.Fatalf("a new grant heals it: %t, %v", ok, err)
		}
	}
}
