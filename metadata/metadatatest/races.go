package metadatatest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"

	"pushproxy/metadata"
)

func counter(t *testing.T, kv metadata.KV) {
	const workers, rounds = 16, 25
	add := func() error {
		for {
			old, err := kv.Get(t.Context(), "n")
			if err != nil {
				return err
			}
			n, _ := strconv.Atoi(string(old))
			done, err := kv.Swap(t.Context(), "n", old, []byte(strconv.Itoa(n+1)))
			if done || err != nil {
				return err
			}
		}
	}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				if err := add(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	holds(t, kv, "n", []byte(strconv.Itoa(workers*rounds)))
}

func history(t *testing.T, kv metadata.KV) {
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	model := map[string]string{}
	value := func(of string) []byte {
		if of == "" {
			return nil
		}
		return []byte(of)
	}
	for step := range 600 {
		key := fmt.Sprintf("%c/%d", 'a'+random.IntN(2), random.IntN(8))
		old := model[key]
		if random.IntN(4) == 0 {
			old = fmt.Sprint("wrong", step)
		}
		next := fmt.Sprint("v", step)
		if random.IntN(3) == 0 {
			next = ""
		}
		if old == "" && next == "" {
			continue
		}
		want := old == model[key]
		swap(t, kv, key, value(old), value(next), want)
		if want {
			model[key] = next
		}
		holds(t, kv, key, value(model[key]))
	}
	var want []string
	for key, value := range model {
		if value != "" {
			want = append(want, key+"="+value)
		}
	}
	slices.Sort(want)
	if found := append(collect(t, kv, "a/"), collect(t, kv, "b/")...); !slices.Equal(found, want) {
		t.Errorf("after seed %d: got %q, want %q", seed, found, want)
	}
}

func cancelled(t *testing.T, kv metadata.KV) {
	swap(t, kv, "k", nil, []byte("v"), true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kv.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if done, err := kv.Swap(ctx, "k", []byte("v"), nil); done || !errors.Is(err, context.Canceled) {
		t.Errorf("swap: %v, %v", done, err)
	}
	var last error
	for _, err := range kv.Scan(ctx, "k") {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("scan: %v", last)
	}
	holds(t, kv, "k", []byte("v"))
}

func closed(t *testing.T, kv metadata.KV) {
	swap(t, kv, "k", nil, []byte("v"), true)
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(t.Context(), "k"); !errors.Is(err, metadata.ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if _, err := kv.Swap(t.Context(), "k", []byte("v"), nil); !errors.Is(err, metadata.ErrClosed) {
		t.Errorf("swap: %v", err)
	}
	var last error
	for _, err := range kv.Scan(t.Context(), "k") {
		last = err
	}
	if !errors.Is(last, metadata.ErrClosed) {
		t.Errorf("scan: %v", last)
	}
}
