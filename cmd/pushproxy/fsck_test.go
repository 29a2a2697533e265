package main

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/metadata"
)

func TestFsckFindsDamagedRecordsWithAndWithoutARunningPushproxy(t *testing.T) {
	s := serveQueue(t)
	d := s.push("queued/app", "v1", "one")
	s.must("wait", "registry.test/queued/app@"+d.String())
	for _, running := range []bool{false, true} {
		s.stop()
		damageGrants(t, filepath.Join(s.dir, "metadata"))
		if running {
			s.start()
		}
		out, err := s.run("fsck", "--json")
		if !errors.Is(err, errReported) {
			t.Fatalf("fsck of a damaged store, running: %t: %v: %s", running, err, out)
		}
		var r struct {
			Blobs    int
			Damaged  []string
			Metadata struct {
				Records map[string]int
				Dropped []string
				Kept    []string
			}
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r.Blobs == 0 || len(r.Damaged) > 0 || len(r.Metadata.Kept) > 0 || r.Metadata.Records["presence"] == 0 ||
			len(r.Metadata.Dropped) != 1 || !strings.HasPrefix(r.Metadata.Dropped[0], "grant/") {
			t.Errorf("running: %t: %s", running, out)
		}
		if out := s.must("fsck"); !strings.Contains(out, " 0 damaged and dropped, 0 jobs that cannot be read") {
			t.Errorf("a second fsck: %s", out)
		}
	}
}

// damageGrants changes a byte of the first grant.
func damageGrants(t *testing.T, dir string) {
	t.Helper()
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = kv.Close() }()
	for e, err := range kv.Scan(t.Context(), "grant/") {
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte{}, e.Value...)
		bad[len(bad)/2] ^= 1
		if done, err := kv.Swap(t.Context(), e.Key, e.Value, bad); !done || err != nil {
			t.Fatalf("%t, %v", done, err)
		}
		return
	}
	t.Fatal("there is no grant")
}
