package forward

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/authinject"
	"pushproxy/oci"
	"pushproxy/upstream"
)

// Status is what an event says of a blob, a manifest or a push: mostly in the
// words that docker shows.
type Status string

// The states of a blob or manifest, in the order in which it can meet them.
const (
	Receiving     Status = "Receiving" // from the client; Current bytes are here
	Received      Status = "Received"  // whole, under Digest
	Broke         Status = "Broke"     // the client's request ended before its body did; it may go on
	Preparing     Status = "Preparing"
	Waiting       Status = "Waiting"
	Pushing       Status = "Pushing"
	Retrying      Status = "Retrying"
	Pushed        Status = "Pushed"
	AlreadyExists Status = "Layer already exists"
	MountedFrom   Status = "Mounted from"
	Failed        Status = "Failed"
)

// What is said of a push as a whole, and of requests.
const (
	Accepted Status = "Accepted" // into the queue, or back into it until Delay has passed
	Parked   Status = "Parked"   // in the queue, where it waits for a person
	Dropped  Status = "Dropped"  // from the queue, by a person
	Stopped  Status = "Stopped"  // its client has sent nothing for a minute, and no manifest
	Asked    Status = "Asked"    // one request to the upstream is over: Exchange, or Login
)

// Event is one change of a blob's or manifest's state, or of a push's.
type Event struct {
	When time.Time
	// Push is the id of the push. It is empty where the event is about a blob that
	// several pushes may be waiting for: those of Principal that name Digest in Repo.
	Push       string
	Principal  string // whose push it is
	Repo       oci.Repo
	Reference  string        // of the manifest, where the event is about one
	Digest     digest.Digest // of the blob or manifest; empty while it is not known
	Upload     string        // the client's, by which the blob comes
	Status     Status
	From       string        // repository, with MountedFrom
	Current    int64         // bytes, with Receiving, Pushing and Pushed
	Total      int64         // bytes; negative while it is not known
	Round      int           // with Pushing: how often its bytes were begun to be sent
	Delay      time.Duration // until the next try, with Retrying and Accepted
	Why        string        // with Retrying, Failed, Accepted and Parked
	Busy       bool          // with Retrying: the upstream wants fewer requests from everybody
	Agent      string        // the client's User-Agent, with Receiving
	Credential string        // what the push is accepted with, with Accepted

	Queued string // id of the queue's job, with Accepted, Parked and Dropped

	// Job is what a manifest's events are about, Nested that an index brought it
	// along. Result comes with Pushed.
	Job    *Job
	Nested bool
	Result *Result
	// One of both comes with Asked. They are not changed any more.
	Exchange *upstream.Exchange
	Login    *authinject.Event
}

// progress reports whether the next event about the same will say more.
func (e *Event) progress() bool {
	return e.Current > 0 && (e.Status == Receiving || e.Status == Pushing)
}

// watcherBuffer is how many events a watcher may fall behind before it misses
// some.
const watcherBuffer = 256

type hub struct {
	mu       sync.Mutex
	watchers map[chan Event]struct{}
	feeds    map[*Feed]struct{}
}

// Watch returns the events from now on, until ctx ends; then the channel is
// closed. A watcher that does not keep up misses events; it never slows a push.
func (f *Forwarder) Watch(ctx context.Context) <-chan Event {
	ch := make(chan Event, watcherBuffer)
	h := &f.hub
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[chan Event]struct{}{}
	}
	h.watchers[ch] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, ch)
		close(ch)
	})
	return ch
}

// watched reports whether anybody wants events: making them can be spared.
func (f *Forwarder) watched() bool {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	return len(f.hub.watchers)+len(f.hub.feeds) > 0
}

func (f *Forwarder) tell(e Event) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if len(f.hub.watchers)+len(f.hub.feeds) == 0 {
		return
	}
	if e.When.IsZero() {
		e.When = time.Now()
	}
	for ch := range f.hub.watchers {
		select {
		case ch <- e:
		default:
		}
	}
	for feed := range f.hub.feeds {
		feed.put(e)
	}
}

const (
	// feedProgress is how many events may wait in a feed before it does without
	// further progress, and feedMost before it does without anything.
	feedProgress = 1 << 12
	feedMost     = 1 << 17
)

// Feed is the events for a watcher that must know how everything ended: what it
// does not keep up with waits, and of that progress is left out first. It never
// slows a push.
type Feed struct {
	mu      sync.Mutex
	waiting []Event
	missed  int
	ready   chan struct{} // holds one when something waits
}

// Feed returns the events from now on, until ctx ends.
func (f *Forwarder) Feed(ctx context.Context) *Feed {
	feed := &Feed{ready: make(chan struct{}, 1)}
	h := &f.hub
	h.mu.Lock()
	if h.feeds == nil {
		h.feeds = map[*Feed]struct{}{}
	}
	h.feeds[feed] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.feeds, feed)
	})
	return feed
}

func (w *Feed) put(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.waiting); n >= feedMost || n >= feedProgress && e.progress() {
		w.missed++
		return
	}
	w.waiting = append(w.waiting, e)
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Ready is readable when there may be something to take.
func (w *Feed) Ready() <-chan struct{} { return w.ready }

// Take returns what has come since the last call, in order, and how many events
// were left out in all. The slice passed is used again.
func (w *Feed) Take(into []Event) (events []Event, missed int) {
	clear(into)
	w.mu.Lock()
	defer w.mu.Unlock()
	events, w.waiting = w.waiting, into[:0]
	return events, w.missed
}
