package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"pushproxy/oci"
)

const (
	// verdictAfter is how long the first connection to somewhere may take before
	// this machine counts as cut off from it: a satellite's link, with a name to
	// look up, needs four fifths of it. Where connections took longer lately,
	// it is patienceTimes what the last one took, dialFor at most.
	verdictAfter  = 1500 * time.Millisecond
	patienceTimes = 3
	dialFor       = 15 * time.Second
	// dialEvery is how long one attempt to connect is alone before another is
	// made beside it, up to dialsAtOnce: a packet that was lost is not a network
	// that is gone.
	dialEvery   = 250 * time.Millisecond
	dialsAtOnce = 6
	// failingFor is how long connections have to fail at once, as without a
	// network, and failingGap how long it may be between two of them.
	failingFor = 1200 * time.Millisecond
	failingGap = 3 * time.Second
	// admitFor is how long a request waits for a way that is cut off.
	admitFor = 200 * time.Millisecond
	// A way that is cut off is searched for as long as it was wanted in the last
	// wantedFor, with searches of searchFor and a new attempt each searchEvery.
	wantedFor   = 30 * time.Second
	searchFor   = 10 * time.Second
	searchEvery = 500 * time.Millisecond
	searchAt    = 20
	// inflated is how long a connection that was found by a search may have taken
	// without having waited for the network to return.
	inflated = time.Second
)

// cutOff is the error of what was not tried, or given up, because there is no
// way to an authority at present.
type cutOff struct {
	authority string
	err       error
}

func (c *cutOff) Error() string {
	err := c.err
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Err != nil {
		err = dial.Err // the rest of it names the address again
	}
	return fmt.Sprintf("there is no connection to %s: %s", plain(c.authority), plain(err.Error()))
}

func (c *cutOff) Unwrap() error { return c.err }

// CutOff tells rooms that do not know this type that another attempt is of no
// use before somebody has found a way.
func (c *cutOff) CutOff() bool { return true }

// isCutOff reports whether err says that there is no way at present.
func isCutOff(err error) bool {
	var c *cutOff
	return errors.As(err, &c)
}

// path is the way to one authority: whether there is one, and how long it takes
// to find that out. Who asks while there is none is told at once; meanwhile it
// is searched for.
type path struct {
	authority string
	connect   connectFunc // by name, where policy lets it
	again     connectFunc // by an address that was connected to before
	lost      func()      // is told that connections that are idle lead nowhere

	mu      sync.Mutex
	took    time.Duration // that the last connection took
	heard   time.Time     // when something came from there
	failing time.Time     // since when, and
	failed  time.Time     // when last no connection could be made
	cut     error         // a cutOff; nil: there is a way, as far as is known
	back    chan struct{} // closed when cut is nil again
	wanted  time.Time     // when somebody last asked while cut
	kick    chan struct{} // an attempt is wanted now
	checks  map[string]*check
	knocks  *knocking // nil: nobody waits for somebody to listen
}

// admit returns an error where there is no way. It waits a moment for one that
// is about to be found.
func (p *path) admit(ctx context.Context) error {
	p.mu.Lock()
	why, back := p.cut, p.back
	p.wanted = time.Now()
	p.mu.Unlock()
	if why == nil {
		return nil
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
	timer := time.NewTimer(admitFor)
	defer timer.Stop()
	select {
	case <-back:
		return nil
	case <-timer.C:
		return why
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// dial connects, or finds within the time for it that there is no way.
func (p *path) dial(ctx context.Context, network string) (net.Conn, error) {
	r := p.connect.race(ctx, network, p.authority, race{patience: p.patience(ctx), every: dialEvery, most: dialsAtOnce})
	switch {
	case r.err == nil:
		p.found(r.took)
		return r.conn, nil
	case ctx.Err() != nil:
		return nil, r.err
	case errors.Is(r.err, errSilence) || p.fails(r.err):
		return nil, p.lose(r.err)
	}
	return nil, p.orRefused(r.err)
}

// waysKey is the context's key of how many ways to one upstream are tried in
// turn: they share the time in which it is to be known that there is none.
type waysKey struct{}

func withWays(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, waysKey{}, n)
}

func ways(ctx context.Context) int {
	n, _ := ctx.Value(waysKey{}).(int)
	return max(1, n)
}

// patience is how long a connection may take.
func (p *path) patience(ctx context.Context) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(verdictAfter/time.Duration(ways(ctx)), min(patienceTimes*p.took, dialFor))
}

// noNetwork reports whether err says that this machine has no way there.
func noNetwork(err error) bool {
	return slices.ContainsFunc([]error{errSilence, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN}, func(e error) bool { return errors.Is(err, e) })
}

// fails notes that there was no connection, and reports whether that has been
// so for long enough.
func (p *path) fails(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var name *net.DNSError
	refused := errors.Is(err, syscall.ECONNREFUSED) && now.Sub(p.heard) > restartFor
	if !refused && !noNetwork(err) && !errors.As(err, &name) {
		return false
	}
	if now.Sub(p.failed) > failingGap {
		p.failing = now
	}
	p.failed = now
	return now.Sub(p.failing) >= failingFor
}

// found notes a connection that took so long.
func (p *path) found(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took, p.heard, p.failed = took, time.Now(), time.Time{}
	p.clear()
	p.opened()
}

// hear notes that something came from there.
func (p *path) hear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = time.Now()
}

// silent is how long nothing came from there.
func (p *path) silent() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.heard)
}

// lose begins a time without a way, and returns its error.
func (p *path) lose(why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut == nil {
		p.cut, p.back, p.wanted = &cutOff{p.authority, why}, make(chan struct{}), time.Now()
		go p.guarded(p.back)
	}
	return p.cut
}

// clear ends a time without a way. It needs p.mu.
func (p *path) clear() {
	if p.cut != nil {
		close(p.back)
		p.cut = nil
	}
}

// guarded is search; one that fails must not leave the upstream given up.
func (p *path) guarded(back <-chan struct{}) {
	err := oci.Guarded(func() error {
		p.search(back)
		return nil
	})
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.clear()
	}
}

// search looks for a way until it has found one or nobody wants it any more.
func (p *path) search(back <-chan struct{}) {
	p.lost()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for {
		r := p.connect.race(ctx, "tcp", p.authority, race{patience: searchFor, every: searchEvery, most: searchAt, kick: p.kick})
		if r.err == nil {
			_ = r.conn.Close()
			p.found(p.usual(ctx, r.took))
			return
		}
		p.mu.Lock()
		if p.cut != nil && time.Since(p.wanted) > wantedFor {
			p.clear()
		}
		p.mu.Unlock()
		timer := time.NewTimer(searchEvery)
		select {
		case <-back:
			timer.Stop()
			return
		case <-p.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// usual is how long a connection takes, where one took so long that may have
// waited for the network to return.
func (p *path) usual(ctx context.Context, took time.Duration) time.Duration {
	if took < inflated {
		return took
	}
	r := p.connect.race(ctx, "tcp", p.authority, race{patience: dialFor, every: dialFor, most: 1})
	if r.err != nil {
		return took
	}
	_ = r.conn.Close()
	return r.took
}
