package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

// isBlobPut tells the request that carries a blob.
func isBlobPut(req *http.Request) bool {
	return req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/uploads/")
}

func TestAHundredPushesOfOneBlobAreOneUpload(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.given("ann", "layer", 1<<20)
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			config := r.blob(fmt.Sprint("config", i), tiny)
			r.give("ann", config)
			if _, err := r.push("ann", "app", fmt.Sprint("v", i), r.image(config, layer)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	counts := map[string]int{}
	for _, request := range r.requests() {
		counts[request]++
	}
	if counts["HEAD app layer"] != 1 || counts["PUT app layer"] != 1 || counts["POST app"] != 101 {
		t.Errorf("the layer: %d looks, %d uploads; %d sessions", counts["HEAD app layer"], counts["PUT app layer"], counts["POST app"])
	}
}

func TestTwoOwnersSendABlobOnceAndAskEachForThemselves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if isBlobPut(req) {
				g.wait(req)
			}
			return 0
		}})
		layer := r.given("ann", "layer", tiny)
		r.give("bob", layer)
		outcomes := map[string]Outcome{}
		var mu sync.Mutex
		var group sync.WaitGroup
		for _, principal := range []string{"ann", "bob"} {
			group.Go(func() {
				o, err := r.Blob(t.Context(), r.target(principal), repo("app"), r.image(layer).Blobs[0], "")
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				outcomes[principal] = o
			})
			synctest.Wait()
		}
		g.pass()
		group.Wait()
		if outcomes["ann"].How != Uploaded || outcomes["bob"].How != Skipped {
			t.Errorf("outcomes: %+v", outcomes)
		}
		synctest.Wait()
		for _, q := range r.reg.Log() {
			if q.Method == http.MethodHead && q.Header.Get("Authorization") != "bob" {
				t.Errorf("%s by %s", q, q.Header.Get("Authorization"))
			}
		}
		r.saw("POST app", "PUT app layer", "POST app", "HEAD app layer", "DELETE app upload")
	})
}

func TestARefusedOwnerMakesRoomForTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if isBlobPut(req) && req.Header.Get("Authorization") == "ann" {
				g.wait(req)
				return http.StatusForbidden
			}
			return 0
		}})
		layer := r.given("ann", "layer", tiny)
		r.give("bob", layer)
		first := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(layer)))
		synctest.Wait()
		second := r.submit(t.Context(), r.job("bob", "app", "v1", r.image(layer)))
		synctest.Wait()
		g.pass()
		if _, err := first.Wait(t.Context()); !errors.Is(err, oci.ErrDenied) {
			t.Errorf("the refused owner: %v", err)
		}
		if result, err := second.Wait(t.Context()); err != nil || result.Blobs[0].How != Uploaded {
			t.Errorf("the other owner: %v, %v", result.Blobs, err)
		}
	})
}

func TestAFollowerThatBringsTheBlobIsNotToldThatNobodyHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		var held atomic.Bool
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if req.Method == http.MethodHead && held.CompareAndSwap(false, true) {
				g.wait(req)
			}
			return 0
		}})
		layer := r.blob("layer", large)
		early := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(layer)))
		synctest.Wait()
		r.give("ann", layer)
		late := r.submit(t.Context(), r.job("ann", "app", "v2", r.image(layer)))
		synctest.Wait()
		g.pass()
		if _, err := early.Wait(t.Context()); !errors.Is(err, oci.ErrManifestBlobUnknown) {
			t.Errorf("before the blob came: %v", err)
		}
		if _, err := late.Wait(t.Context()); err != nil {
			t.Errorf("after the blob came: %v", err)
		}
	})
}

func TestAFlightGoesOnAsLongAsSomebodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		var cancelled atomic.Int32
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if isBlobPut(req) {
				g.wait(req)
				if req.Context().Err() != nil {
					cancelled.Add(1)
				}
			}
			return 0
		}})
		layer := r.given("ann", "layer", tiny)
		blob := func(ctx context.Context) <-chan error {
			end := make(chan error, 1)
			go func() {
				_, err := r.Blob(ctx, r.target("ann"), repo("app"), r.image(layer).Blobs[0], "")
				end <- err
			}()
			synctest.Wait()
			return end
		}
		leaderCtx, leaderGone := context.WithCancel(t.Context())
		leader := blob(leaderCtx)
		followerCtx, followerGone := context.WithCancel(t.Context())
		follower := blob(followerCtx)
		leaderGone()
		if err := <-leader; !errors.Is(err, context.Canceled) {
			t.Errorf("the leader that left: %v", err)
		}
		synctest.Wait()
		if cancelled.Load() != 0 {
			t.Error("the follower's flight was cancelled with its leader")
		}
		followerGone()
		<-follower
		synctest.Wait()
		if cancelled.Load() != 1 || len(r.flights) != 0 || len(r.sending) != 0 {
			t.Errorf("a flight that nobody waits for goes on: %d cancelled, %d under way", cancelled.Load(), len(r.flights))
		}
		// Whoever comes now begins anew.
		next := blob(t.Context())
		g.pass()
		noError(t, <-next)
		if list := r.requests(); !slices.Contains(list, "DELETE app upload") {
			t.Errorf("the session was not given back: %v", list)
		}
	})
}
