package forward

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Status is what a blob or manifest is doing, in the words that docker shows.
type Status string

// The states, in the order in which a blob can meet them.
const (
	Preparing     Status = "Preparing"
	Waiting       Status = "Waiting"
	Pushing       Status = "Pushing"
	Retrying      Status = "Retrying"
	Pushed        Status = "Pushed"
	AlreadyExists Status = "Layer already exists"
	MountedFrom   Status = "Mounted from"
	Failed        Status = "Failed"
)

// Event is one change of a blob's or manifest's state.
type Event struct {
	When      time.Time
	Principal string // whose push it is; empty with Retrying
	Repo      oci.Repo
	Reference string        // of the manifest, where the event is about one
	Digest    digest.Digest // of the blob or manifest
	Status    Status
	From      string        // repository, with MountedFrom
	Current   int64         // bytes, with Pushing and Pushed
	Total     int64         // bytes
	Delay     time.Duration // until the next try, with Retrying
	Why       string        // with Retrying and Failed
}

// watcherBuffer is how many events a watcher may fall behind before it misses
// some.
const watcherBuffer = 256

type hub struct {
	mu       sync.Mutex
	watchers map[chan Event]struct{}
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

func (f *Forwarder) tell(e Event) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if len(f.hub.watchers) == 0 {
		return
	}
	e.When = time.Now()
	for ch := range f.hub.watchers {
		select {
		case ch <- e:
		default:
		}
	}
}
