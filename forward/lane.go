package forward

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// laneWidth is how many uploads an upstream gets at once; more do not raise
	// the rate of a link and cost it memory (speed.md section 3).
	laneWidth = 5
	// laneSmall is the size, in bytes, up to which an upload may take the place
	// that big ones never get, so that it is not stuck behind them.
	laneSmall = 1 << 20
)

// lane holds back uploads to one upstream: at most limit at once, fewer after
// the upstream said that it is too many. Who has the fewest under way is next,
// and of equals who came first; big uploads leave one place to small ones.
type lane struct {
	width   int // what limit may grow to; 0: laneWidth
	mu      sync.Mutex
	limit   int
	busy    int            // places taken
	big     int            // … by big uploads
	held    map[string]int // … by principal
	calm    int            // uploads that ended well since the limit last changed
	quiet   time.Time      // until then a 429 belongs to one that was answered
	waiting []*place       // in the order of their coming
}

// place is one upload's claim to a place.
type place struct {
	principal string
	big       bool
	ready     chan struct{} // closed when the place is its own
}

func (f *Forwarder) lane(host string) *lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[host]
	if l == nil {
		l = &lane{held: map[string]int{}}
		if f.Uploads != nil {
			l.width = f.Uploads(host)
		}
		l.limit = cmp.Or(l.width, laneWidth)
		f.lanes[host] = l
	}
	return l
}

// acquire waits for a place for an upload of size bytes, which release gives
// back. It fails only with ctx.
func (l *lane) acquire(ctx context.Context, principal string, size int64) (*place, error) {
	p := &place{principal: principal, big: size > laneSmall, ready: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, p)
	l.admit()
	l.mu.Unlock()
	select {
	case <-p.ready:
		return p, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, p); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else {
		// It was let in at the same moment.
		l.take(p, -1)
	}
	l.admit()
	return nil, context.Cause(ctx)
}

// release gives a place back; err is how the upload ended.
func (l *lane) release(p *place, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.take(p, -1)
	if err == nil {
		l.calm++
	}
	if l.calm >= 2*l.limit && l.limit < cmp.Or(l.width, laneWidth) {
		l.limit, l.calm = l.limit+1, 0
	}
	l.admit()
}

// admit lets in who may go. It needs l.mu.
func (l *lane) admit() {
	for {
		next := -1
		for i, p := range l.waiting {
			if l.room(p) && (next < 0 || l.held[p.principal] < l.held[l.waiting[next].principal]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		p := l.waiting[next]
		l.waiting = slices.Delete(l.waiting, next, next+1)
		l.take(p, 1)
		close(p.ready)
	}
}

func (l *lane) room(p *place) bool {
	return l.busy < l.limit && (!p.big || l.limit == 1 || l.big < l.limit-1)
}

// take counts a place as taken (1) or given back (-1).
func (l *lane) take(p *place, n int) {
	l.busy += n
	if p.big {
		l.big += n
	}
	if l.held[p.principal] += n; l.held[p.principal] == 0 {
		delete(l.held, p.principal)
	}
}

// throttled halves the limit, once for all the answers that come before the
// upstream is asked again after delay: a burst of requests is refused as one.
func (l *lane) throttled(delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Before(l.quiet) {
		return
	}
	l.quiet = now.Add(delay)
	l.limit, l.calm = max(1, l.limit/2), 0
}
