package forward

import (
	"container/heap"
	"context"
	"sync"
)

const (
	// laneWidth is how many uploads an upstream gets at once; more do not raise
	// the rate of a link and cost it memory (speed.md section 3).
	laneWidth = 5
	// laneSmall is the size, in bytes, up to which an upload may take the place
	// that big ones never get, so that it is not stuck behind them.
	laneSmall = 1 << 20
)

// lane holds back uploads to one upstream: at most limit at once, small ones
// first, fewer after the upstream said that it is too many.
type lane struct {
	mu      sync.Mutex
	limit   int
	busy    int
	calm    int // uploads that ended well since the limit last changed
	next    int
	waiting waiters
}

func (f *Forwarder) lane(host string) *lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lanes[host]
	if l == nil {
		l = &lane{limit: laneWidth}
		f.lanes[host] = l
	}
	return l
}

// acquire waits for a place for an upload of size bytes and returns what gives
// it back. It fails only with ctx.
func (l *lane) acquire(ctx context.Context, size int64) (release func(), err error) {
	l.mu.Lock()
	w := &waiter{size: size, order: l.next, ready: make(chan struct{})}
	l.next++
	heap.Push(&l.waiting, w)
	l.admit()
	l.mu.Unlock()
	select {
	case <-w.ready:
		return l.release, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.index < 0 {
		// It was let in at the same moment.
		l.busy--
	} else {
		heap.Remove(&l.waiting, w.index)
	}
	l.admit()
	return nil, context.Cause(ctx)
}

// admit lets in who may go. The smallest waits at the top, so that when it must
// wait everybody must.
func (l *lane) admit() {
	for len(l.waiting) > 0 {
		room := l.limit
		if l.waiting[0].size > laneSmall && room > 1 {
			room--
		}
		if l.busy >= room {
			return
		}
		l.busy++
		close(heap.Pop(&l.waiting).(*waiter).ready)
	}
}

func (l *lane) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	if l.calm++; l.calm >= 2*l.limit && l.limit < laneWidth {
		l.limit, l.calm = l.limit+1, 0
	}
	l.admit()
}

// throttled halves the uploads that an upstream gets at once: it answered 429.
// They grow again, one by one, as uploads end well.
func (f *Forwarder) throttled(host string) {
	l := f.lane(host)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit, l.calm = max(1, l.limit/2), 0
}

type waiter struct {
	size  int64
	order int
	index int // in the heap; -1 once let in
	ready chan struct{}
}

// waiters is a heap: the smallest first, of equals the one that came first.
type waiters []*waiter

func (w waiters) Len() int { return len(w) }
func (w waiters) Less(i, j int) bool {
	if w[i].size != w[j].size {
		return w[i].size < w[j].size
	}
	return w[i].order < w[j].order
}
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}
func (w *waiters) Push(x any) {
	x.(*waiter).index = len(*w)
	*w = append(*w, x.(*waiter))
}
func (w *waiters) Pop() any {
	old := *w
	last := old[len(old)-1]
	last.index = -1
	*w = old[:len(old)-1]
	return last
}
