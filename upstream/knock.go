package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"time"

	"pushproxy/oci"
)

const (
	// knockEvery is how long it is at most from one look whether somebody listens
	// again to the next, half of it by chance.
	knockEvery = 500 * time.Millisecond
	// scatter is within how long those go on, by chance, who waited for the same.
	scatter = 200 * time.Millisecond
)

// notListening is the error of a connection that nobody listened to: an upstream that
// restarts is back in a moment, and can be waited for.
type notListening struct {
	p   *path
	err error
}

func (r *notListening) Error() string { return r.err.Error() }
func (r *notListening) Unwrap() error { return r.err }

// knocking is what all share who wait until somebody listens at an authority.
type knocking struct {
	waiting int
	heard   chan struct{} // closed when a connection was made
	stop    context.CancelFunc
}

// listened returns a channel that is closed when a connection to where err was
// refused has been made, by anybody; leave is called when nobody waits for that
// any more. It is nil, which never comes, for errors of another kind.
func listened(err error) (heard <-chan struct{}, leave func()) {
	var r *notListening
	if !errors.As(err, &r) {
		return nil, func() {}
	}
	return r.p.knock()
}

// knock joins those who wait; the first of them begins to look.
func (p *path) knock() (heard <-chan struct{}, leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.knocks
	if k == nil {
		ctx, stop := context.WithCancel(context.Background())
		k = &knocking{heard: make(chan struct{}), stop: stop}
		p.knocks = k
		go func() { _ = oci.Guarded(func() error { p.knocked(ctx); return nil }) }()
	}
	k.waiting++
	return k.heard, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if k.waiting--; k.waiting == 0 {
			k.stop()
			if p.knocks == k {
				p.knocks = nil
			}
		}
	}
}

// knocked looks until ctx ends whether somebody listens.
func (p *path) knocked(ctx context.Context) {
	for sleep(ctx, knockEvery/2+rand.N(knockEvery/2)) == nil {
		r := p.connect.race(ctx, "tcp", p.authority, race{patience: verdictAfter, every: verdictAfter, most: 1})
		if r.err == nil {
			_ = r.conn.Close()
			p.found(r.took)
			return
		}
	}
}

// opened tells those who wait that somebody listens. It needs p.mu.
func (p *path) opened() {
	if p.knocks != nil {
		p.knocks.stop()
		close(p.knocks.heard)
		p.knocks = nil
	}
}

// orRefused returns err as a refusal that can be waited out, if it is one.
func (p *path) orRefused(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return &notListening{p, err}
	}
	return err
}

// pauseUntil is pause that also ends when somebody listens again where cause was
// refused. Who waited for that go on one after another.
func (c *Client) pauseUntil(ctx context.Context, d time.Duration, cause error) error {
	heard, leave := listened(cause)
	defer leave()
	if heard == nil {
		return c.pause(ctx, d)
	}
	ends := time.Now().Add(d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-heard:
		return c.pause(ctx, min(time.Until(ends), rand.N(scatter)))
	case <-timer.C:
		return ctx.Err()
	case <-c.Quit:
		return errQuit
	case <-ctx.Done():
		return ctx.Err()
	}
}
