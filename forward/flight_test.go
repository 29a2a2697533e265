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

	"github.com/opencontainers/go-digest"

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
	layer := r.blob("layer", 1<<20)
	r.give("ann", layer)
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
		layer := r.blob("layer", tiny)
		r.give("ann", layer)
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
		log := r.reg.Log()
		if last := log[len(log)-1]; last.Method != http.MethodHead || last.Header.Get("Authorization") != "bob" {
			t.Errorf("the second owner was told without asking: %s by %s", last, last.Header.Get("Authorization"))
		}
		r.saw("POST app", "PUT app layer", "HEAD app layer")
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
		layer := r.blob("layer", tiny)
		r.give("ann", layer)
		r.give("bob", layer)
		first, err := r.Submit(t.Context(), r.job("ann", "app", "v1", r.image(layer)))
		noError(t, err)
		synctest.Wait()
		second, err := r.Submit(t.Context(), r.job("bob", "app", "v1", r.image(layer)))
		noError(t, err)
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

func TestABlobOfAnotherPrincipalIsNotUploadedWithoutAGrant(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	secret, random := r.blob("secret", large), r.blob("random", large)
	r.give("ann", secret)
	r.pushed("ann", "ann/private", "v1", r.image(secret))
	r.requests()
	var messages []string
	for name, b := range map[string][]byte{"secret": secret, "random": random} {
		_, err := r.push("bob", "bob/app", "v1", r.image(b))
		if !errors.Is(err, oci.ErrManifestBlobUnknown) {
			t.Errorf("%s: %v", name, err)
		}
		messages = append(messages, strings.ReplaceAll(oci.AsError(err).Message, digest.FromBytes(b).String(), "D"))
		for _, q := range r.reg.Log() {
			if q.Header.Get("Authorization") != "bob" {
				t.Errorf("a request with another's credential: %s", q)
			}
		}
		r.saw("HEAD bob/app " + name)
	}
	if messages[0] != messages[1] {
		t.Errorf("the answers differ:\n%s\n%s", messages[0], messages[1])
	}
}

func TestWhatOneOwnerSawInARepositoryIsNoAnswerForAnother(t *testing.T) {
	t.Parallel()
	reg := &upstreamtest.Registry{Fail: func(req *http.Request) int {
		if req.Header.Get("Authorization") == "bob" && strings.Contains(req.URL.Path, "ann/private") {
			return http.StatusForbidden
		}
		return 0
	}}
	r := newRig(t, reg)
	secret, random := r.blob("secret", large), r.blob("random", large)
	r.give("ann", secret)
	r.pushed("ann", "ann/private", "v1", r.image(secret))
	for _, granted := range []bool{false, true} {
		var errs []string
		for _, b := range [][]byte{secret, random} {
			if granted {
				r.give("bob", b)
			}
			_, err := r.push("bob", "ann/private", "other", r.image(b))
			if !errors.Is(err, oci.ErrDenied) {
				t.Errorf("granted %v: %v", granted, err)
			}
			errs = append(errs, strings.ReplaceAll(oci.AsError(err).Message, digest.FromBytes(b).String(), "D"))
		}
		if errs[0] != errs[1] {
			t.Errorf("granted %v: a stranger can tell what a repository holds:\n%s\n%s", granted, errs[0], errs[1])
		}
	}
	child := r.image(secret)
	noError(t, func() error { _, err := r.push("ann", "ann/private", "", child); return err }())
	r.requests()
	if _, err := r.push("bob", "ann/private", "index", r.index(child)); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("index: %v", err)
	}
	r.saw("HEAD ann/private:child1")
}

func TestAStrangerDoesNotWaitForAnothersUpload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if isBlobPut(req) {
				g.wait(req)
			}
			return 0
		}})
		layer := r.blob("layer", large)
		r.give("ann", layer)
		r.Start(r.target("ann"), repo("app"), digest.FromBytes(layer), "")
		<-g.arrived
		// Without the grant the answer comes at once, although the blob is on its way.
		if _, err := r.push("bob", "app", "v1", r.image(layer)); !errors.Is(err, oci.ErrManifestBlobUnknown) {
			t.Errorf("error: %v", err)
		}
		g.pass()
	})
}

func TestAPushBySomebodyElseTeachesTheOwnerWhatTheUpstreamShowedThem(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	r.give("ann", layer)
	m := r.image(layer)
	r.pushed("ann", "app", "v1", m)
	r.requests()
	if result := r.pushed("bob", "app", "v1", m); !result.Unchanged {
		t.Errorf("result: %+v", result)
	}
	r.saw("HEAD app:v1")
	r.pushed("bob", "bob/app", "v1", m)
	r.saw("POST bob/app mount layer from app", "PUT bob/app:v1")
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
		early, err := r.Submit(t.Context(), r.job("ann", "app", "v1", r.image(layer)))
		noError(t, err)
		synctest.Wait()
		r.give("ann", layer)
		late, err := r.Submit(t.Context(), r.job("ann", "app", "v2", r.image(layer)))
		noError(t, err)
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
		layer := r.blob("layer", tiny)
		r.give("ann", layer)
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
