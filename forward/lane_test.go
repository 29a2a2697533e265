package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
	"pushproxy/upstream"
	"pushproxy/upstream/upstreamtest"
)

// crowd is uploads in a lane that stay until they are told to go.
type crowd struct {
	t    *testing.T
	lane *lane
	mu   sync.Mutex
	in   []string // who has a place, in the order of their admission
	gone map[string]chan error
}

func newCrowd(t *testing.T) *crowd {
	return &crowd{t: t, lane: New(nil, nil).lane(host), gone: map[string]chan error{}}
}

// come asks for a place.
func (c *crowd) come(principal, name string, size int64) {
	end := make(chan error, 1)
	c.gone[name] = end
	go func() {
		p, err := c.lane.acquire(c.t.Context(), principal, size)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.in = append(c.in, name)
		c.mu.Unlock()
		c.lane.release(p, <-end)
	}()
	synctest.Wait()
}

// leave makes an upload end, with err.
func (c *crowd) leave(name string, err error) {
	c.gone[name] <- err
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in = slices.DeleteFunc(c.in, func(s string) bool { return s == name })
}

func (c *crowd) want(names ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	got := slices.Clone(c.in)
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		c.t.Errorf("in the lane: %v, want %v", got, names)
	}
}

// empty lets everybody go.
func (c *crowd) empty() {
	for len(c.in) > 0 {
		c.leave(c.in[0], nil)
	}
}

const big = laneSmall + 1

func TestBigUploadsLeaveAPlaceForSmallOnesAndEachWaitsItsTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		for i := 1; i <= 6; i++ {
			c.come("ann", fmt.Sprint("big", i), big)
		}
		c.want("big1", "big2", "big3", "big4")
		c.come("ann", "small1", laneSmall)
		c.come("ann", "small2", laneSmall)
		c.want("big1", "big2", "big3", "big4", "small1")
		c.leave("small1", nil)
		c.want("big1", "big2", "big3", "big4", "small2")
		// A stream of small ones does not keep the big ones out.
		for i := 3; i <= 9; i++ {
			c.come("ann", fmt.Sprint("small", i), 1)
		}
		c.leave("big1", nil)
		c.want("big2", "big3", "big4", "big5", "small2")
		c.leave("big2", nil)
		c.want("big3", "big4", "big5", "big6", "small2")
		c.empty()
	})
}

func TestNobodyTakesTheWholeLaneFromOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		for i := 1; i <= 20; i++ {
			c.come("ann", fmt.Sprint("a", i), 1)
		}
		c.want("a1", "a2", "a3", "a4", "a5")
		c.come("bob", "b1", 1)
		c.come("bob", "b2", 1)
		c.leave("a1", nil)
		c.want("a2", "a3", "a4", "a5", "b1")
		c.leave("a2", nil)
		c.want("a3", "a4", "a5", "b1", "b2")
		c.leave("a3", nil)
		c.want("a4", "a5", "a6", "b1", "b2")
		c.empty()
	})
}

func TestTheLaneHalvesOncePerRefusalAndGrowsWithSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t)
		refused := func(want int) {
			t.Helper()
			if c.lane.throttled(time.Second); c.lane.limit != want {
				t.Errorf("limit %d, want %d", c.lane.limit, want)
			}
		}
		refused(2)
		refused(2) // the same burst
		time.Sleep(time.Second)
		refused(1)
		time.Sleep(time.Second)
		refused(1)
		c.come("ann", "big", big)
		c.want("big") // even the only place is not kept from big ones
		c.come("ann", "other", 1)
		c.want("big")
		c.leave("big", errors.New("failed"))
		c.leave("other", nil)
		// One failed and one ended well: two have to.
		if c.lane.limit != 1 {
			t.Errorf("limit %d after a failure", c.lane.limit)
		}
		for n, want := range map[int]int{1: 2, 1 + 4: 3, 1 + 4 + 6: 4, 1 + 4 + 6 + 8: 5, 100: 5} {
			fresh := &lane{limit: 1, calm: 1, held: map[string]int{}}
			for range n {
				p, err := fresh.acquire(t.Context(), "ann", 1)
				noError(t, err)
				fresh.release(p, nil)
			}
			if fresh.limit != want {
				t.Errorf("limit %d after %d uploads, want %d", fresh.limit, n, want)
			}
		}
	})
}

func TestWhoLeavesTheQueueLeavesNoHole(t *testing.T) {
	t.Parallel()
	l := New(nil, nil).lane(host)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	// With room, it is let in at the very moment at which it leaves, and either
	// may be noticed first; without, it leaves the queue.
	for _, room := range []bool{true, false} {
		var places []*place
		for range laneWidth {
			if room {
				break
			}
			p, err := l.acquire(t.Context(), "bob", 1)
			noError(t, err)
			places = append(places, p)
		}
		for range 100 {
			p, err := l.acquire(gone, "ann", big)
			switch {
			case err == nil && room:
				l.release(p, nil)
			case err == nil:
				t.Fatal("let in without room")
			case !errors.Is(err, context.Canceled):
				t.Fatal(err)
			}
		}
		for _, p := range places {
			l.release(p, nil)
		}
		if l.busy != 0 || l.big != 0 || len(l.waiting) != 0 || len(l.held) != 0 {
			t.Errorf("room %v: left in the lane: %d, %d big, %d waiting, %v", room, l.busy, l.big, len(l.waiting), l.held)
		}
	}
}

func TestAnUpstreamGetsFiveUploadsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if isBlobPut(req) {
				g.wait(req)
			}
			return 0
		}})
		var blobs [][]byte
		for i := range 12 {
			blobs = append(blobs, r.blob(fmt.Sprint("blob", i), tiny))
		}
		r.give("ann", blobs...)
		p := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(blobs...)))
		synctest.Wait()
		if n := len(g.arrived); n != laneWidth {
			t.Errorf("%d uploads at once", n)
		}
		g.pass()
		r.succeeds(p)
	})
}

func TestABusyUpstreamGetsFewerUploads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPost, Status: http.StatusTooManyRequests, RetryAfter: "3"})
		blob := r.given("ann", "blob", tiny)
		job := r.job("ann", "app", "v1", r.image(blob))
		job.Target.Client.Attempts = 2
		events := r.Watch(t.Context())
		_, err := r.do(job)
		noError(t, err)
		if limit := r.lane(host).limit; limit != laneWidth/2 {
			t.Errorf("limit %d", limit)
		}
		synctest.Wait()
		for len(events) > 0 {
			if e := <-events; e.Status == Retrying {
				if e.Delay < 3*time.Second || e.Why == "" || e.Repo != repo("app") {
					t.Errorf("event: %+v", e)
				}
				return
			}
		}
		t.Error("watchers were not told of the retry")
	})
}

func TestOneUpstreamsLaneIsNotAnothers(t *testing.T) {
	t.Parallel()
	f := New(nil, nil)
	f.Retrying(t.Context(), "ann", upstream.Retry{Repo: oci.Repo{Host: "busy.test", Name: "app"}, Busy: true, Delay: time.Second})
	f.Retrying(t.Context(), "ann", upstream.Retry{Repo: oci.Repo{Host: "flaky.test", Name: "app"}, Delay: time.Second})
	if busy, flaky := f.lane("busy.test").limit, f.lane("flaky.test").limit; busy != laneWidth/2 || flaky != laneWidth {
		t.Errorf("limits %d and %d", busy, flaky)
	}
}
