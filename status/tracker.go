package status

import (
	"context"
	"slices"
	"sync"
	"time"

	"pushproxy/forward"
	"pushproxy/oci"
)

const (
	// warmFor is how long a finished push is kept at hand: what was begun for it
	// may end later, and the manifest of an index may still come.
	warmFor = 30 * time.Second
	// lostFor is how long nothing may be heard of a push before it is taken to have
	// stopped.
	lostFor = time.Hour
	// tidyEvery is how often pushes are put away and rates are taken.
	tidyEvery = time.Second
	// noteEvery is how often a push under way is written down, at most; one that is
	// older than eight times as long, when it is an eighth older than the last time.
	noteEvery = 10 * time.Second
	// mostLive bounds the pushes at hand.
	mostLive = 4096
)

// Tracker makes pushes of forward's events. Make it with NewTracker.
type Tracker struct {
	// Ended, when set, is told of each push half a minute after it has ended, or
	// when the tracker ends, with the client's own span (forward.Job.Trace). It is
	// set before Run.
	Ended func(p Push, parent string)

	feed    *forward.Feed
	queue   *forward.Queue // nil: there is none
	journal *journal       // nil: nothing is kept
	done    chan struct{}

	mu      sync.Mutex
	seq     int64               // counts the changes
	byID    map[string]*tracked // pushes at hand that can be seen
	at      map[where][]*tracked
	open    map[where]*tracked // what gathers there
	history history
	hosts   map[hostKey]*hostStats
	jobs    []forward.Listed
	jobsSeq int64
	live    live
	ended   []endedPush // that Ended is still to be told of
	fresh   []*tracked  // to be written down, since they have begun or have their manifest
}

// endedPush is a push with the client's own span.
type endedPush struct {
	push   Push
	parent string
}

// where is whose pushes go to which repository.
type where struct {
	principal string
	repo      oci.Repo
}

// NewTracker returns a tracker of a forwarder's events, from now until ctx ends.
// Queue may be nil. File is where finished pushes are kept, empty for nowhere;
// an error is that of reading it, and the tracker works without it.
func NewTracker(ctx context.Context, f *forward.Forwarder, queue *forward.Queue, file string) (*Tracker, error) {
	t := &Tracker{
		queue: queue, done: make(chan struct{}),
		byID: map[string]*tracked{}, at: map[where][]*tracked{}, open: map[where]*tracked{}, hosts: map[hostKey]*hostStats{},
	}
	t.live.changed = make(chan struct{})
	if f != nil {
		t.feed = f.Feed(ctx)
	}
	if file == "" {
		return t, nil
	}
	j, old, err := openJournal(file)
	t.journal = j
	t.restore(old)
	return t, err
}

// Run follows the events until ctx ends, and then writes down what is known of
// the pushes under way.
func (t *Tracker) Run(ctx context.Context) {
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	var events []forward.Event
	for {
		var jobs <-chan struct{}
		if t.queue != nil {
			jobs = t.queue.Changed()
			t.listJobs()
		}
		select {
		case <-t.feed.Ready():
			events, _ = t.feed.Take(events)
			t.take(events)
		case <-jobs:
		case now := <-ticker.C:
			t.tidy(now)
			t.tellEnded()
		case <-ctx.Done():
			events, _ = t.feed.Take(events)
			t.take(events)
			t.close()
			t.tellEnded()
			close(t.done)
			return
		}
	}
}

// take applies events in their order.
func (t *Tracker) take(events []forward.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range events {
		// What cannot be followed is not shown; everything else goes on.
		_ = oci.Guarded(func() error {
			t.apply(&events[i])
			return nil
		})
	}
	t.noteFresh()
	if len(events) > 0 {
		t.live.wake()
	}
}

// apply changes what is known by one event. It needs t.mu, as do all that follow.
func (t *Tracker) apply(e *forward.Event) {
	switch e.Status {
	case forward.Receiving, forward.Received, forward.Broke:
		t.receive(e)
	case forward.Asked:
		t.asked(e)
	case forward.Accepted, forward.Parked, forward.Dropped, forward.Stopped:
		t.news(e)
	default:
		if e.Job != nil {
			t.manifest(e)
		} else {
			t.blobs(e)
		}
	}
}

// changed notes that a push is another than it was.
func (t *Tracker) changed(p *tracked, when time.Time) {
	p.last = when
	t.seq++
	p.seq = t.seq
}

// pushOf returns the push of an event that names it, which comes into sight by
// that.
func (t *Tracker) pushOf(e *forward.Event) *tracked {
	if p := t.byID[e.Push]; p != nil {
		return p
	}
	key := where{e.Principal, e.Repo}
	p := t.open[key]
	if p == nil || p.ID != "" {
		p = t.newPush(key, e.When)
	}
	p.ID = e.Push
	t.byID[e.Push] = p
	return p
}

// gathering returns the push that what comes for a repository belongs to, as far
// as is known. It may be one that nobody sees yet.
func (t *Tracker) gathering(key where, when time.Time) *tracked {
	p := t.open[key]
	if p == nil {
		p = t.newPush(key, when)
		t.open[key] = p
	}
	return p
}

func (t *Tracker) newPush(key where, when time.Time) *tracked {
	p := &tracked{key: key, last: when, named: map[string]bool{}}
	p.Principal, p.Upstream, p.Repository, p.State, p.Started = key.principal, key.repo.Host, key.repo.Name, Receiving, when
	t.at[key] = append(t.at[key], p)
	return p
}

// forget drops a push from what is at hand.
func (t *Tracker) forget(p *tracked) {
	if p.ID != "" {
		delete(t.byID, p.ID)
	}
	if t.open[p.key] == p {
		delete(t.open, p.key)
	}
	rest := slices.DeleteFunc(t.at[p.key], func(q *tracked) bool { return q == p })
	if len(rest) == 0 {
		delete(t.at, p.key)
	} else {
		t.at[p.key] = rest
	}
}

// tidy puts finished pushes away.
func (t *Tracker) tidy(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	excess := len(t.byID) - mostLive
	for _, all := range t.at {
		for _, p := range slices.Clone(all) {
			idle := now.Sub(p.last)
			switch {
			case p.noteDue(now):
				t.note(p, now)
			case p.ID == "" && idle > warmFor:
				t.forget(p)
			case p.over && (idle > warmFor || excess > 0):
				excess--
				t.putAway(p)
			case !p.over && p.State != Queued && p.running == 0 && idle > lostFor:
				t.finish(p, Stopped, "nothing was heard of it for an hour", now)
			}
		}
	}
	if t.rates(now) {
		t.live.wake()
	}
}

// putAway moves a finished push into the history.
func (t *Tracker) putAway(p *tracked) {
	t.forget(p)
	t.ends(p)
	t.keep(p)
	t.history.add(p.whole(), p.seq)
}

// ends notes a push that Ended is to be told of.
func (t *Tracker) ends(p *tracked) {
	if t.Ended != nil && p.ID != "" {
		t.ended = append(t.ended, endedPush{p.whole(), p.trace})
	}
}

// tellEnded tells of the pushes that have ended. It is called without t.mu.
func (t *Tracker) tellEnded() {
	t.mu.Lock()
	ended := t.ended
	t.ended = nil
	t.mu.Unlock()
	for _, e := range ended {
		t.Ended(e.push, e.parent)
	}
}
