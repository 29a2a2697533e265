package metadata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/disk"
	"pushproxy/oci"
)

// TestRecordsKeepTheirForm pins what is on people's disks: a change here needs
// another format number.
func TestRecordsKeepTheirForm(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 0, 5, time.UTC)
	const d = "sha256:aa"
	repo := oci.Repo{Host: "localhost:5000", Name: "acme/app"}
	cases := []struct {
		name, key, wantKey string
		header             any
		want               string
	}{
		{"source", sourceKey(Owner{0xab}, d), "source/ab" + strings.Repeat("0", 62) + "/sha256:aa/", []oci.Repo{repo}, `[{"Host":"localhost:5000","Name":"acme/app"}]`},
		{"grant", grantKey("token:ci/x y", d), "grant/token:ci%2Fx%20y/sha256:aa/", grantRecord{at}, `{"when":"2026-11-21T12:00:00.000000005Z"}`},
		{"presence", presenceKey(repo, d), "presence/localhost:5000/acme%2Fapp/sha256:aa/", Presence{at, Seen, 7}, `{"when":"2026-11-21T12:00:00.000000005Z","how":"head","size":7}`},
		{"manifest", manifestKey(repo, d), "manifest/localhost:5000/acme%2Fapp/sha256:aa/", Manifest{"m", at, []byte("raw")}, `{"media_type":"m","when":"2026-11-21T12:00:00.000000005Z"}`},
		{"tag", tagKey(repo, "v1_2"), "tag/localhost:5000/acme%2Fapp/v1_2/", Tag{"x", d, "m", 7, at}, `{"digest":"sha256:aa","media_type":"m","size":7,"when":"2026-11-21T12:00:00.000000005Z"}`},
		{"job", makeKey("job", "0001-ab"), "job/0001-ab/", Job{ID: "x", Revision: 1, Principal: "p", Owner: Owner{1}, Credential: "c", Repo: repo, Tags: []string{"v1"}, Digest: d, MediaType: "m", Size: 7, State: JobQueued, Attempts: 2, NotBefore: at, Error: "e", Created: at, Updated: at},
			`{"revision":1,"principal":"p","owner":"01` + strings.Repeat("0", 62) + `","credential":"c","repo":{"Host":"localhost:5000","Name":"acme/app"},"tags":["v1"],"digest":"sha256:aa","media_type":"m","size":7,"state":"queued","attempts":2,"not_before":"2026-11-21T12:00:00.000000005Z","error":"e","created":"2026-11-21T12:00:00.000000005Z","updated":"2026-11-21T12:00:00.000000005Z"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.key != c.wantKey {
				t.Errorf("key: got %s, want %s", c.key, c.wantKey)
			}
			record, err := encode(c.key, c.header, []byte("tail"))
			if err != nil {
				t.Fatal(err)
			}
			var header json.RawMessage
			tail, err := decode(c.key, record, &header)
			if err != nil || string(header) != c.want || string(tail) != "tail" || record[0] != 1 {
				t.Errorf("got %s and %q, %v, want %s", header, tail, err, c.want)
			}
		})
	}
}

func TestARecordOfANewerVersionIsDamaged(t *testing.T) {
	t.Parallel()
	record, err := encode("k/", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	record[0] = 2
	body := record[:len(record)-4]
	sum := checksum("k/", body)
	record = append(body, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
	var n int
	if _, err := decode("k/", record, &n); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("got %v, want ErrDamaged that names the version", err)
	}
}

func TestADatabaseOfAnotherFormatIsRefused(t *testing.T) {
	t.Parallel()
	newer, err := encode(makeKey("format"), map[string]int{"format": 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, record := range map[string][]byte{"format 2": newer, "damaged": []byte("damaged")} {
		kv := &Memory{}
		if err := checkFormat(t.Context(), kv); err != nil {
			t.Errorf("new database: %v", err)
		}
		if err := checkFormat(t.Context(), kv); err != nil {
			t.Errorf("known database: %v", err)
		}
		known, _ := kv.Get(t.Context(), "format/")
		if done, err := kv.Swap(t.Context(), "format/", known, record); !done || err != nil {
			t.Fatal(done, err)
		}
		if err := checkFormat(t.Context(), kv); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want a refusal that says so", name, err)
		}
		if left, _ := kv.Get(t.Context(), "format/"); !bytes.Equal(left, record) {
			t.Errorf("%s: the refused database was changed", name)
		}
	}
}

func TestJournalWritesWaitForTheDisk(t *testing.T) {
	t.Parallel()
	if !badgerOptions(t.TempDir(), &disk.Watch{}).SyncWrites {
		t.Error("SyncWrites is off: a power cut would lose acknowledged jobs")
	}
}

func TestAFailedFsyncStopsAllFurtherAcknowledgements(t *testing.T) {
	t.Parallel()
	b, err := OpenBadger(t.Context(), t.TempDir()+"/meta", BadgerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if done, err := b.Swap(t.Context(), "k", nil, []byte("v")); !done || err != nil {
		t.Fatal(done, err)
	}
	b.disk.Watch.Errorf("Unable to read: Key: %v", "k")
	if done, err := b.Swap(t.Context(), "k", []byte("v"), []byte("w")); !done || err != nil {
		t.Errorf("after a harmless error: got %v, %v", done, err)
	}
	b.disk.Watch.Errorf("Error while curlf sync: %v\n", "input/output error")
	if done, err := b.Swap(t.Context(), "k", []byte("w"), []byte("x")); done || err == nil || !strings.Contains(err.Error(), "input/output") {
		t.Errorf("after a failed fsync: got %v, %v, want its error", done, err)
	}
	if value, err := b.Get(t.Context(), "k"); string(value) != "w" || err != nil {
		t.Errorf("reads after a failed fsync: got %q, %v", value, err)
	}
}

func TestACallerThatLeavesMayReuseItsMemory(t *testing.T) {
	t.Parallel()
	b := &Badger{swaps: make(chan *swap), disk: &disk.Dir{Space: disk.Space{Floor: -1}}}
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan *swap, 1)
	go func() {
		taken <- <-b.swaps
		cancel()
	}()
	old, next := []byte("old"), []byte("new")
	if done, err := b.Swap(ctx, "k", old, next); done || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, %v, want the context's error", done, err)
	}
	old[0], next[0] = 'x', 'x'
	if s := <-taken; string(s.old) != "old" || string(s.new) != "new" {
		t.Errorf("the writer sees %q and %q", s.old, s.new)
	}
}

func TestABatchStaysWithinItsLimits(t *testing.T) {
	t.Parallel()
	waiting := make(chan *swap, 2000)
	for range 600 {
		waiting <- &swap{key: "k", new: make([]byte, 10)}
	}
	if got := len(collect(<-waiting, waiting)); got != maxBatchSwaps {
		t.Errorf("small swaps: got a batch of %d, want %d", got, maxBatchSwaps)
	}
	for len(waiting) > 0 {
		<-waiting
	}
	for range 5 {
		waiting <- &swap{key: "k", new: make([]byte, 1<<20-100)}
	}
	close(waiting)
	sizes := []int{}
	for first := range waiting {
		sizes = append(sizes, len(collect(first, waiting)))
	}
	if !slices.Equal(sizes, []int{2, 2, 1}) {
		t.Errorf("swaps of nearly 1 MiB: got batches of %v, want [2 2 1]", sizes)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, header := range []any{1, "x", []oci.Repo{{Host: "h", Name: "n"}}, Job{ID: "1"}} {
		record, err := encode("k/", header, []byte("tail"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add("k/", record)
	}
	f.Add("", []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, key string, record []byte) {
		var header json.RawMessage
		if _, err := decode(key, record, &header); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v, want ErrDamaged", err)
		}
		// With the right checksum the inner parser is reached as well.
		sum := checksum(key, record)
		record = append(slices.Clone(record), byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
		tail, err := decode(key, record, &header)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v, want ErrDamaged", err)
			}
			return
		}
		if !json.Valid(header) || len(header)+len(tail)+6 > len(record) {
			t.Errorf("header %q and tail %q do not fit the record", header, tail)
		}
	})
}

func FuzzKeysAreInjective(f *testing.F) {
	f.Add("a", "b/c", "a/b", "c")
	f.Add("", "", "/", "%2F")
	f.Add("a\x00", "ä", "a", "\x00ä")
	f.Fuzz(func(t *testing.T, a1, a2, b1, b2 string) {
		a, b := makeKey("k", a1, a2), makeKey("k", b1, b2)
		if (a == b) != (a1 == b1 && a2 == b2) {
			t.Errorf("(%q, %q) and (%q, %q) have the keys %s and %s", a1, a2, b1, b2, a, b)
		}
		if one := makeKey("k", a1+a2); one == a || strings.HasPrefix(one, makeKey("k", a1)) != (a2 == "") {
			t.Errorf("%q runs into (%q, %q)", a1+a2, a1, a2)
		}
		if prefix := makeKey("k", b1); strings.HasPrefix(a, prefix) != (a1 == b1) {
			t.Errorf("(%q, %q) is found under the prefix of %q", a1, a2, b1)
		}
		if last, err := lastField(a); err != nil || last != a2 {
			t.Errorf("last field of %s: got %q, %v, want %q", a, last, err, a2)
		}
	})
}

func FuzzLastField(f *testing.F) {
	f.Add("tag/a/b%2Fc/")
	f.Add("%")
	f.Add("/%z")
	f.Fuzz(func(t *testing.T, key string) {
		if _, err := lastField(key); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v, want ErrDamaged", err)
		}
	})
}
