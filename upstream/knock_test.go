package upstream

import (
	"context"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/upstream/upstreamtest"
)

// byPath makes a connection for each request, which the fake answers then.
type byPath struct {
	p *path
	http.RoundTripper
}

func (b byPath) RoundTrip(r *http.Request) (*http.Response, error) {
	err := b.p.admit(r.Context())
	if err == nil {
		_, err = b.p.dial(r.Context(), "tcp")
	}
	if err != nil {
		return nil, err
	}
	b.p.hear()
	return b.RoundTripper.RoundTrip(r)
}

// restarting has an upstream that was there a moment ago refuse connections.
func restarting(t *testing.T, test func(t *testing.T, f *far, r *upstreamtest.Registry, c *Client)) {
	t.Helper()
	f := &far{takes: 5 * time.Millisecond}
	synctest.Test(t, func(t *testing.T) {
		p := &path{authority: "registry.test:443", connect: f.connect, again: f.connect, kick: make(chan struct{}, 1), lost: func() {}}
		r := &upstreamtest.Registry{}
		c := newClient(r)
		c.HTTP = &http.Client{Transport: byPath{p, r.Transport()}}
		noError(t, c.Ping(t.Context()))
		f.set(func(f *far) { f.err, f.tried = syscall.ECONNREFUSED, 0 })
		test(t, f, r, c)
	})
}

func (f *far) returns() { f.set(func(f *far) { f.err = nil }) }

func TestWhoWaitsForAnUpstreamThatRestartsGoesOnWhenItListens(t *testing.T) {
	t.Parallel()
	for down := 200 * time.Millisecond; down < 4*time.Second; down += 200 * time.Millisecond {
		restarting(t, func(t *testing.T, f *far, _ *upstreamtest.Registry, c *Client) {
			c.Attempts = 50 // chance may use up five of them before it is back
			b, d := blobOf(2 << 20)
			time.AfterFunc(down, f.returns)
			began := time.Now()
			noError(t, push(t, c, b, d))
			if late := time.Since(began) - down; late > knockEvery+scatter+50*time.Millisecond {
				t.Errorf("down for %s, it went on %s after", down, late)
			}
		})
	}
}

func TestManyWhoWaitForAnUpstreamLookTogetherAndGoOnOneByOne(t *testing.T) {
	t.Parallel()
	restarting(t, func(t *testing.T, f *far, r *upstreamtest.Registry, c *Client) {
		const most = 100
		var all sync.WaitGroup
		for range most {
			all.Go(func() {
				if _, _, err := c.HeadBlob(t.Context(), app, digest.FromString("x")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		asked := f.tries()
		time.Sleep(firstDelay - time.Microsecond) // before anybody tries again
		synctest.Wait()
		if looks := f.tries() - asked; looks < 1 || looks > 2 {
			t.Errorf("%d wait, and it was looked %d times whether somebody listens", most, looks)
		}
		f.returns()
		came := map[time.Duration]int{}
		returned := time.Now()
		for len(r.Requests()) < most && time.Since(returned) < time.Minute {
			before := len(r.Requests())
			time.Sleep(time.Millisecond)
			synctest.Wait()
			came[time.Since(returned)] = len(r.Requests()) - before
		}
		for when, n := range came {
			if n > most/10 {
				t.Errorf("%d of them asked in the same millisecond, %s after it was back", n, when)
			}
		}
		all.Wait()
	})
}

func (f *far) tries() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried
}

func TestNobodyLooksWhetherAnUpstreamListensWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	restarting(t, func(t *testing.T, f *far, _ *upstreamtest.Registry, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, _, err := c.HeadBlob(ctx, app, digest.FromString("x"))
		if err == nil {
			t.Error("nobody listens, and it succeeded")
		}
		synctest.Wait()
		tried := f.tries()
		time.Sleep(time.Minute)
		if more := f.tries() - tried; more != 0 {
			t.Errorf("it was looked %d times for nobody", more)
		}
	})
}

func TestWhatAnUpstreamAsksToWaitForIsWaitedForThoughItListens(t *testing.T) {
	t.Parallel()
	restarting(t, func(t *testing.T, f *far, r *upstreamtest.Registry, c *Client) {
		r.Inject(upstreamtest.Fault{Status: 503, RetryAfter: "20"})
		time.AfterFunc(300*time.Millisecond, f.returns)
		began := time.Now()
		_, _, err := c.HeadBlob(t.Context(), app, digest.FromString("x"))
		noError(t, err)
		if took := time.Since(began); took < 20*time.Second {
			t.Errorf("it was asked again after %s", took)
		}
	})
}
