package forward

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestCloseLetsPushesFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var first atomic.Bool
		r, g := held(t, func(*http.Request) bool { return first.CompareAndSwap(false, true) })
		config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
		child := r.image(config, layer)
		noError(t, r.meta.Grant(t.Context(), "ann", child.Digest(digest.SHA256)))
		p := r.submit(t.Context(), r.job("ann", "app", "v1", child))
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- r.Close(t.Context()) }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("Close does not wait for a push")
		}
		if _, err := r.Submit(t.Context(), r.job("ann", "app", "v2", child)); !errors.Is(err, ErrClosed) {
			t.Errorf("a push after Close: %v", err)
		}
		if _, err := r.Blob(t.Context(), r.target("ann"), repo("app"), child.Blobs[0], ""); !errors.Is(err, ErrClosed) {
			t.Errorf("a blob after Close: %v", err)
		}
		r.Start(r.target("ann"), repo("other"), child.Blobs[0].Digest, "", "")
		r.Learn(r.target("ann"), repo("other"), child)
		// The push has most of its way still before it.
		g.pass()
		if _, err := p.Wait(t.Context()); err != nil {
			t.Errorf("the push under way: %v", err)
		}
		noError(t, <-closed)
		if slices.ContainsFunc(r.requests(), func(s string) bool { return strings.Contains(s, "other") }) {
			t.Error("work was begun after Close")
		}
	})
}

func TestCloseCancelsWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, g := held(t, isBlobPut)
		config := r.given("ann", "config", tiny)
		p := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(config)))
		r.Start(r.target("ann"), repo("other"), digest.FromBytes(config), "", "")
		<-g.arrived
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
		if _, err := p.Wait(t.Context()); !errors.Is(err, ErrClosed) || oci.AsError(err).Status != http.StatusServiceUnavailable {
			t.Errorf("the push: %v", err)
		}
	})
}

func TestAPushGoesOnForAMinuteAfterItsClientLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, g := held(t, isBlobPut)
		config := r.given("ann", "config", tiny)
		job := r.job("ann", "app", "v1", r.image(config))
		ctx, gone := context.WithCancel(t.Context())
		p := r.submit(ctx, job)
		synctest.Wait()
		gone()
		if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the waiter that left: %v", err)
		}
		// It comes back in time, leaves again and comes back too late.
		time.Sleep(rejoinFor - time.Second)
		again := r.submit(t.Context(), job)
		time.Sleep(2 * rejoinFor)
		if again != p || len(p.done) > 0 {
			t.Error("the push was not joined, or it ended under its waiter")
		}
		if _, err := again.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("the waiter that left again: %v", err)
		}
		time.Sleep(rejoinFor - time.Second)
		p.abandon()
		anew := r.submit(t.Context(), job)
		if anew == p {
			t.Error("a push was joined that is being cancelled")
		}
		synctest.Wait()
		select {
		case <-p.done:
			if !errors.Is(p.err, errAbandoned) {
				t.Errorf("the abandoned push: %v", p.err)
			}
		default:
			t.Error("the abandoned push goes on")
		}
		g.pass()
		r.succeeds(anew)
	})
}

func TestAPushWhoseClientStaysAwayIsCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _ := held(t, isBlobPut)
		config := r.given("ann", "config", tiny)
		ctx, gone := context.WithCancel(t.Context())
		gone()
		p := r.submit(ctx, r.job("ann", "app", "v1", r.image(config)))
		_, _ = p.Wait(ctx)
		left := time.Now()
		<-p.done
		if after := time.Since(left); after != rejoinFor || !errors.Is(p.err, errAbandoned) {
			t.Errorf("ended after %s: %v", after, p.err)
		}
	})
}

func TestAPushThatSomebodyStillWaitsForIsNotCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, g := held(t, isBlobPut)
		config := r.given("ann", "config", tiny)
		job := r.job("ann", "app", "v1", r.image(config))
		ctx, gone := context.WithCancel(t.Context())
		first := r.submit(ctx, job)
		second := r.submit(t.Context(), job)
		gone()
		_, _ = first.Wait(ctx)
		time.Sleep(2 * rejoinFor)
		// The minute may end in the moment in which somebody comes back.
		second.abandon()
		g.pass()
		r.succeeds(second)
		// Whoever asks late is told all the same.
		r.succeeds(first)
	})
}

// states returns the states that watchers are told of while do runs.
func (r *rig) states(do func()) string {
	ctx, stop := context.WithCancel(r.t.Context())
	events := r.Watch(ctx)
	do()
	stop()
	synctest.Wait()
	states := map[string]bool{}
	for e := range events {
		if e.When.IsZero() || e.Principal != "ann" || e.Repo.Host != host || e.Digest == "" {
			r.t.Errorf("event: %+v", e)
		}
		states[string(e.Status)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(states)), ", ")
}

func TestWatchersSeeEveryState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		config, layer, missing := r.blob("config", tiny), r.blob("layer", large), r.blob("missing", large)
		r.give("ann", config, layer)
		m, lacking := r.image(config, layer), r.image(missing)
		push := func(name, tag string, m oci.Manifest) func() {
			return func() { _, _ = r.push("ann", name, tag, m) }
		}
		for _, test := range []struct {
			what string
			do   func()
			want string
		}{
			{"a first push", push("app", "v1", m), "Asked, Preparing, Pushed, Pushing, Waiting"},
			{"another tag", push("app", "v2", m), "Asked, Layer already exists, Preparing, Pushed"},
			{"another repository", push("second", "v1", m), "Asked, Mounted from, Preparing, Pushed"},
			{"a failure", push("app", "v1", lacking), "Asked, Failed, Preparing"},
			{"a blob's failure", func() {
				_, _ = r.Blob(t.Context(), r.target("ann"), repo("app"), lacking.Blobs[0], "")
			}, "Asked, Failed, Preparing"},
			{"a blob that is there", func() {
				r.reg.AddBlob("app", missing)
				r.pushed("ann", "app", "v3", lacking)
			}, "Asked, Layer already exists, Preparing, Pushed"},
		} {
			if got := r.states(test.do); got != test.want {
				t.Errorf("%s: %s; want %s", test.what, got, test.want)
			}
		}
	})
}

func TestWatchersNeverSlowAPush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		stuck := r.Watch(t.Context())
		ctx, gone := context.WithCancel(t.Context())
		left := r.Watch(ctx)
		gone()
		synctest.Wait()
		if _, open := <-left; open {
			t.Error("the channel of a watcher that left is open")
		}
		config := r.given("ann", "config", tiny)
		for range watcherBuffer {
			r.pushed("ann", "app", "v1", r.image(config))
		}
		if len(stuck) != watcherBuffer {
			t.Errorf("the watcher that does not read has %d events", len(stuck))
		}
	})
}

func TestProgressIsToldAsItIsMadeAndFromTheMiddleToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.given("ann", "layer", 3<<20)
	e := errand{Descriptor: r.image(layer).Blobs[0], t: r.target("ann"), owner: ownerOf("ann"), repo: repo("app")}
	b, err := r.plan(t.Context(), e)
	noError(t, err)
	body, err := b.open(t.Context())
	noError(t, err)
	defer body.Close()
	events := r.Watch(t.Context())
	at, err := body.(*progress).Seek(2<<20, 0)
	noError(t, err)
	n, err := body.Read(make([]byte, 1000))
	noError(t, err)
	if got := <-events; got.Status != Pushing || got.Current != at+int64(n) || got.Total != 3<<20 {
		t.Errorf("event: %+v", got)
	}
}
