// Package metadatatest is the contract of metadata.KV as tests, for every store
// that implements it.
package metadatatest

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pushproxy/metadata"
)

// TestKV checks a KV against its contract. open returns an empty store; the
// suite closes it.
func TestKV(t *testing.T, open func(t *testing.T) metadata.KV) {
	cases := []struct {
		name string
		run  func(t *testing.T, kv metadata.KV)
	}{
		{"an absent key reads as nil", absent},
		{"a swap happens only when the old value is there", swaps},
		{"sizes beyond the limits are errors and the largest value works", limits},
		{"values given and returned are not shared with the store", copies},
		{"a scan yields the entries of a prefix in order over many pages", scans},
		{"the body of a scan may change and delete what it sees", scanAndChange},
		{"concurrent swaps lose no update", counter},
		{"a random history agrees with a map", history},
		{"a cancelled context is an error", cancelled},
		{"a closed store says so", closed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kv := open(t)
			t.Cleanup(func() {
				if err := kv.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.run(t, kv)
		})
	}
}

// swap calls Swap and checks what it reports.
func swap(t *testing.T, kv metadata.KV, key string, old, new []byte, want bool) {
	t.Helper()
	done, err := kv.Swap(t.Context(), key, old, new)
	if err != nil || done != want {
		t.Fatalf("swap of %.40q from %.20q to %.20q: got %v, %v, want %v", key, old, new, done, err, want)
	}
}

// holds checks the value under key; nil is absent.
func holds(t *testing.T, kv metadata.KV, key string, want []byte) {
	t.Helper()
	value, err := kv.Get(t.Context(), key)
	if err != nil || !bytes.Equal(value, want) || (value == nil) != (want == nil) {
		t.Fatalf("value of %.40q: got %.40q (nil %v), %v, want %.40q (nil %v)", key, value, value == nil, err, want, want == nil)
	}
}

// collect returns a scan as key=value texts.
func collect(t *testing.T, kv metadata.KV, prefix string) []string {
	t.Helper()
	var found []string
	for entry, err := range kv.Scan(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("scan of %q: %v", prefix, err)
		}
		found = append(found, entry.Key+"="+string(entry.Value))
	}
	return found
}

func absent(t *testing.T, kv metadata.KV) {
	holds(t, kv, "a", nil)
	if found := collect(t, kv, "a"); len(found) != 0 {
		t.Errorf("scan of an absent prefix: got %q", found)
	}
}

func swaps(t *testing.T, kv metadata.KV) {
	one, two := []byte("one"), []byte("two")
	swap(t, kv, "k", one, two, false)
	swap(t, kv, "k", one, nil, false)
	swap(t, kv, "k", []byte{}, two, false)
	holds(t, kv, "k", nil)
	swap(t, kv, "k", nil, one, true)
	holds(t, kv, "k", one)
	swap(t, kv, "k", nil, two, false)
	swap(t, kv, "k", two, one, false)
	swap(t, kv, "k", []byte{}, two, false)
	swap(t, kv, "k", []byte("on"), two, false)
	holds(t, kv, "k", one)
	swap(t, kv, "k", one, two, true)
	swap(t, kv, "k", one, nil, false)
	holds(t, kv, "k", two)
	holds(t, kv, "kk", nil)
	swap(t, kv, "k", two, nil, true)
	holds(t, kv, "k", nil)
	swap(t, kv, "k", two, nil, false)
	swap(t, kv, "k", nil, two, true)
	holds(t, kv, "k", two)
}

func limits(t *testing.T, kv metadata.KV) {
	bad := []struct {
		name     string
		key      string
		old, new []byte
	}{
		{"empty key", "", nil, []byte("v")},
		{"long key", strings.Repeat("k", metadata.MaxKey+1), nil, []byte("v")},
		{"empty value", "k", nil, []byte{}},
		{"large value", "k", nil, make([]byte, metadata.MaxValue+1)},
		{"nothing to nothing", "k", nil, nil},
	}
	for _, c := range bad {
		if done, err := kv.Swap(t.Context(), c.key, c.old, c.new); err == nil || done {
			t.Errorf("%s: got %v and no error", c.name, done)
		}
		if value, err := kv.Get(t.Context(), c.key); err != nil || value != nil {
			t.Errorf("%s is stored: %d bytes, %v", c.name, len(value), err)
		}
	}
	key := strings.Repeat("k", metadata.MaxKey)
	for _, size := range []int{1 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, metadata.MaxValue} {
		value := bytes.Repeat([]byte{byte(size)}, size-1)
		value = append(value, 1)
		swap(t, kv, key, nil, value, true)
		holds(t, kv, key, value)
		if found := collect(t, kv, key); len(found) != 1 || len(found[0]) != len(key)+1+size {
			t.Errorf("scan does not find the value of %d bytes", size)
		}
		swap(t, kv, key, value, nil, true)
	}
}

func copies(t *testing.T, kv metadata.KV) {
	given := []byte("value")
	swap(t, kv, "k", nil, given, true)
	given[0] = 'x'
	value, err := kv.Get(t.Context(), "k")
	if err != nil || string(value) != "value" {
		t.Fatalf("after changing the slice given: %q, %v", value, err)
	}
	value[0] = 'y'
	for entry, err := range kv.Scan(t.Context(), "k") {
		if err != nil {
			t.Fatal(err)
		}
		entry.Value[0] = 'z'
	}
	holds(t, kv, "k", []byte("value"))
}

func scans(t *testing.T, kv metadata.KV) {
	var want []string
	var group sync.WaitGroup
	for n := range 700 {
		key := fmt.Sprintf("p/%03d", n)
		want = append(want, key+"="+strconv.Itoa(n))
		group.Go(func() { _, _ = kv.Swap(t.Context(), key, nil, []byte(strconv.Itoa(n))) })
	}
	group.Wait()
	for _, key := range []string{"o", "p", "p.", "p0", "q/1"} {
		swap(t, kv, key, nil, []byte("other"), true)
	}
	if found := collect(t, kv, "p/"); !slices.Equal(found, want) {
		t.Errorf("scan: got %d entries, want %d in order", len(found), len(want))
	}
	if found := collect(t, kv, "p/12"); !slices.Equal(found, want[120:130]) {
		t.Errorf("scan of p/12: got %q", found)
	}
	if found := collect(t, kv, ""); len(found) < len(want)+5 {
		t.Errorf("scan of everything: got %d entries, want at least %d", len(found), len(want)+5)
	}
	for range kv.Scan(t.Context(), "p/") {
		break
	}
}

func scanAndChange(t *testing.T, kv metadata.KV) {
	const count = 600
	for n := range count {
		swap(t, kv, fmt.Sprintf("p/%03d", n), nil, []byte("old"), true)
	}
	seen := 0
	for entry, err := range kv.Scan(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen%2 == 0 {
			swap(t, kv, entry.Key, entry.Value, nil, true)
		} else {
			swap(t, kv, entry.Key, entry.Value, []byte("new"), true)
		}
	}
	if seen != count {
		t.Errorf("the scan yielded %d entries, want %d", seen, count)
	}
	if left := collect(t, kv, "p/"); len(left) != count/2 || left[0] != "p/000=new" {
		t.Errorf("left are %d entries, want %d changed ones", len(left), count/2)
	}
}
