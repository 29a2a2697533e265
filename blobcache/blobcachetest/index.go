package blobcachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pushproxy/blobcache"
)

// TestIndex checks a store of records; open returns an empty one.
func TestIndex(t *testing.T, open func(t *testing.T) blobcache.Index) {
	run(t, open, map[string]func(*testing.T, blobcache.Index){
		"a record is swapped only from what it is":      recordIsSwapped,
		"scan yields a prefix in order, nothing beside": scanYieldsPrefix,
		"scan ends when the caller has enough":          scanEndsEarly,
		"records may change during a scan":              scanBesideSwaps,
		"of many swaps from one value a single wins":    oneSwapWins,
		"a swap of many records makes all or none":      manySwapped,
		"swaps of the same records do not block":        crossedSwaps,
		"a cancelled context stops every call":          cancelledIndex,
	})
}

func wantSwap(t *testing.T, i blobcache.Index, key, old, new string, want bool) {
	t.Helper()
	if got, err := i.Swap(t.Context(), key, []byte(old), []byte(new)); err != nil || got != want {
		t.Fatalf("Swap(%s, %q, %q): %t, %v; want %t", key, old, new, got, err, want)
	}
}

func recordIsSwapped(t *testing.T, i blobcache.Index) {
	for _, step := range []struct {
		old, new string
		want     bool
		after    string
	}{
		{"", "", true, ""}, {"x", "a", false, ""}, {"", "a", true, "a"}, {"", "b", false, "a"}, {"x", "b", false, "a"},
		{"a", "b", true, "b"}, {"a", "", false, "b"}, {"b", "b", true, "b"}, {"b", "", true, ""}, {"b", "c", false, ""},
		{"", "c", true, "c"},
	} {
		wantSwap(t, i, "k", step.old, step.new, step.want)
		got, err := i.Get(t.Context(), "k")
		if err != nil || string(got) != step.after || (got == nil) != (step.after == "") {
			t.Fatalf("after Swap(%q, %q): %q, %v; want %q", step.old, step.new, got, err, step.after)
		}
	}
}

func scanYieldsPrefix(t *testing.T, i blobcache.Index) {
	var want []string
	for n := range 600 {
		key := fmt.Sprintf("p/%04d", n)
		want = append(want, key)
		wantSwap(t, i, key, "", "v"+key, true)
	}
	for _, key := range []string{"p", "p.", "p0", "o/0001", "q"} {
		wantSwap(t, i, key, "", "beside", true)
	}
	wantSwap(t, i, "p/0007", "vp/0007", "", true)
	want = slices.DeleteFunc(want, func(k string) bool { return k == "p/0007" })
	entries := Collect(t, i.Scan(t.Context(), "p/"))
	var got []string
	for _, e := range entries {
		got = append(got, e.Key)
		if string(e.Value) != "v"+e.Key {
			t.Errorf("%s holds %q", e.Key, e.Value)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Scan: %d keys, want %d in order", len(got), len(want))
	}
}

func scanEndsEarly(t *testing.T, i blobcache.Index) {
	for _, key := range []string{"p/a", "p/b", "p/c"} {
		wantSwap(t, i, key, "", "v", true)
	}
	for e, err := range i.Scan(t.Context(), "p/") {
		if err != nil || e.Key != "p/a" {
			t.Fatalf("first: %q, %v", e.Key, err)
		}
		break
	}
}

func scanBesideSwaps(t *testing.T, i blobcache.Index) {
	for n := range 300 {
		wantSwap(t, i, fmt.Sprintf("p/%03d", n), "", "v", true)
	}
	seen := 0
	for e, err := range i.Scan(t.Context(), "p/") {
		if err != nil {
			t.Fatal(err)
		}
		wantSwap(t, i, e.Key, "v", "", true)
		seen++
	}
	if seen != 300 {
		t.Errorf("Scan yielded %d records, want 300", seen)
	}
}

func oneSwapWins(t *testing.T, i blobcache.Index) {
	wantSwap(t, i, "counter", "", strings.Repeat("+", 1), true)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for done := 0; done < 10; {
				old, err := i.Get(t.Context(), "counter")
				if err != nil {
					t.Error(err)
					return
				}
				ok, err := i.Swap(t.Context(), "counter", old, append(bytes.Clone(old), '+'))
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					done++
				}
			}
		})
	}
	wg.Wait()
	if got, _ := i.Get(t.Context(), "counter"); len(got) != 81 {
		t.Errorf("80 increments counted to %d", len(got)-1)
	}
}

func cancelledIndex(t *testing.T, i blobcache.Index) {
	ctx, cancel := context.WithCancel(t.Context())
	wantSwap(t, i, "k", "", "v", true)
	cancel()
	_, getErr := i.Get(ctx, "k")
	_, allErr := i.SwapAll(ctx, blobcache.Change{Key: "k", Old: []byte("v"), New: []byte("w")}, blobcache.Change{Key: "l", New: []byte("w")})
	_, swapErr := i.Swap(ctx, "k", []byte("v"), []byte("w"))
	for call, err := range map[string]error{"Get": getErr, "Swap": swapErr, "SwapAll": allErr, "Scan": last(i.Scan(ctx, "p/"))} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", call, err)
		}
	}
	wantSwap(t, i, "k", "v", "w", true)
}

func manySwapped(t *testing.T, i blobcache.Index) {
	wantSwap(t, i, "b", "", "1", true)
	for _, step := range []struct {
		a, b, c string // old and new, as in "1>2"
		want    bool
		after   string
	}{
		{"x>2", "1>2", ">2", false, "|1|"}, {">2", "1>2", "x>2", false, "|1|"}, {">2", "0>2", ">2", false, "|1|"},
		{">2", "1>", ">2", true, "2||2"}, {"2>2", ">", "2>3", true, "2||3"}, {"2>", ">4", "3>", true, "|4|"},
	} {
		var changes []blobcache.Change
		for key, text := range map[string]string{"a": step.a, "b": step.b, "c": step.c} {
			before, after, _ := strings.Cut(text, ">")
			changes = append(changes, blobcache.Change{Key: key, Old: []byte(before), New: []byte(after)})
		}
		if got, err := i.SwapAll(t.Context(), changes...); err != nil || got != step.want {
			t.Fatalf("%+v: %t, %v", step, got, err)
		}
		var left []string
		for _, key := range []string{"a", "b", "c"} {
			v, _ := i.Get(t.Context(), key)
			left = append(left, string(v))
		}
		if got := strings.Join(left, "|"); got != step.after {
			t.Fatalf("after %+v: %s", step, got)
		}
	}
}

func crossedSwaps(t *testing.T, i blobcache.Index) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 50 {
				// Each names the shared keys in another order.
				a, b := fmt.Sprint("k", (w+n)%8), fmt.Sprint("k", (w*3+n+1)%8)
				if a == b {
					continue
				}
				if _, err := i.SwapAll(t.Context(), blobcache.Change{Key: a, New: []byte("v")}, blobcache.Change{Key: b, Old: []byte("v")}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestJoint checks the step of both halves of a store; open returns an empty one.
func TestJoint(t *testing.T, open func(t *testing.T) blobcache.Joint) {
	s := open(t)
	set := func(key, old, new string) blobcache.Change {
		return blobcache.Change{Key: key, Old: []byte(old), New: []byte(new)}
	}
	for n, size := range []int{1, 16 << 10, 100 << 10, mib + 4} {
		p := Bytes(n, size)
		done, err := s.PutAndSwap(t.Context(), ID("a"), n, p, set("k", strings.Repeat("v", n), strings.Repeat("v", n+1)), set(fmt.Sprint(n), "", "v"))
		if err != nil || !done {
			t.Fatalf("PutAndSwap of %d bytes: %t, %v", size, done, err)
		}
		wantChunk(t, s, "a", n, p)
		if done, err = s.PutAndSwap(t.Context(), ID("b"), n, p, set("k", "", "x"), set("other", "", "x")); err != nil || done {
			t.Fatalf("PutAndSwap that is no swap: %t, %v", done, err)
		}
	}
	if done, err := s.PutAndSwap(t.Context(), ID("a"), 0, nil, set("other", "", "x")); err == nil || done {
		t.Errorf("PutAndSwap of no chunk: %t, %v", done, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if done, err := s.PutAndSwap(ctx, ID("a"), 9, Bytes(9, 9), set("other", "", "x")); !errors.Is(err, context.Canceled) || done {
		t.Errorf("PutAndSwap in a cancelled context: %t, %v", done, err)
	}
	left := Collect(t, s.Scan(t.Context(), "other"))
	if k, err := s.Get(t.Context(), "k"); string(k) != "vvvv" || err != nil || len(left) > 0 {
		t.Errorf("records: k is %q, %v; %d others", k, err, len(left))
	}
}
