package status

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
)

const (
	// shownFinished is how many finished pushes a snapshot has, and mostListed how
	// many one answer of the list has at most.
	shownFinished = 50
	mostListed    = 500
	// factsFor is how long what is known of upstreams and of the store is not asked
	// for again.
	factsFor = 10 * time.Second
)

// facts is what others know, as they said it last.
type facts struct {
	mu     sync.Mutex
	known  map[string]*fact[[]Known] // by principal
	stored fact[Store]
}

// fact is an answer that is asked for again, behind the back of who wants it,
// when it is old.
type fact[T any] struct {
	value  T
	when   time.Time
	asking bool
}

// get returns the answer. It needs mu, which it gives up while it asks.
func (f *fact[T]) get(mu *sync.Mutex, ask func(context.Context) (T, bool)) T {
	renew := func() {
		ctx, cancel := context.WithTimeout(context.Background(), factsFor)
		defer cancel()
		v, ok := ask(ctx)
		mu.Lock()
		defer mu.Unlock()
		if f.asking, f.when = false, time.Now(); ok {
			f.value = v
		}
	}
	old := time.Since(f.when) > factsFor
	switch {
	case !old || f.asking:
	case f.when.IsZero():
		f.asking = true
		mu.Unlock()
		renew()
		mu.Lock()
	default:
		f.asking = true
		go func() {
			_ = oci.Guarded(func() error {
				renew()
				return nil
			})
		}()
	}
	return f.value
}

// snapshot returns everything as the viewer may see it.
func (s *Server) snapshot(v Viewer) Snapshot {
	shown, _ := s.snapshotAt(v)
	return shown
}

// snapshotAt returns a snapshot and the change up to which it knows all.
func (s *Server) snapshotAt(v Viewer) (shown Snapshot, at int64) {
	shown = Snapshot{
		Version: Version, Pushproxy: s.Version, Instance: s.Instance, Started: s.Started, Now: time.Now(),
		Pushes: []Push{}, Finished: []Push{}, Queue: []Job{}, Upstreams: []Upstream{},
	}
	if s.Tracker == nil {
		return shown, 0
	}
	t := s.Tracker
	t.mu.Lock()
	at = t.seq
	for _, p := range t.byID {
		if !p.over && v.sees(p.Principal) {
			shown.Pushes = append(shown.Pushes, p.shown())
		}
	}
	t.mu.Unlock()
	slices.SortFunc(shown.Pushes, func(a, b Push) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	shown.Finished, _ = s.finished(v, Query{})
	shown.Queue, shown.Upstreams = s.queue(v), s.upstreams(v)
	if v.All {
		shown.Store = s.store()
	}
	shown.Event = s.Instance + "-" + strconv.FormatInt(at, 10)
	return shown, at
}

// push returns a push with its steps, if there is one that the viewer may see.
func (s *Server) push(v Viewer, id string) (Push, bool) {
	if s.Tracker == nil {
		return Push{}, false
	}
	t := s.Tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.byID[id]; p != nil {
		if !v.sees(p.Principal) {
			return Push{}, false
		}
		return p.whole(), true
	}
	item := t.history.byID[id]
	if item == nil || !v.sees(item.principal) {
		return Push{}, false
	}
	return item.push(), true
}

// finished returns finished pushes, newest first, and what to put into
// Query.Before for those that follow; empty at the end.
func (s *Server) finished(v Viewer, q Query) (pushes []Push, next string) {
	pushes = []Push{}
	if s.Tracker == nil {
		return pushes, ""
	}
	if q.Limit <= 0 {
		q.Limit = shownFinished
	}
	all := s.Tracker.pick(v, q)
	for _, item := range all[:min(len(all), q.Limit)] {
		pushes = append(pushes, item.get())
	}
	if len(all) > q.Limit {
		next = pushes[len(pushes)-1].ID
	}
	return pushes, next
}

// candidate is a finished push that a query has found.
type candidate struct {
	id       string
	finished time.Time
	live     *Push // one that is still at hand
	packed   *packed
}

func (c candidate) get() (p Push) {
	if c.live != nil {
		return *c.live
	}
	p = c.packed.push()
	p.Steps = nil
	return p
}

// pick returns the finished pushes of a query, newest first, and one more
// than its limit if there are more.
func (t *Tracker) pick(v Viewer, q Query) (found []candidate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var warm []candidate
	for _, p := range t.byID {
		if p.over {
			shown := p.shown()
			if q.matches(p.Principal, searched(shown), p.State, v) {
				warm = append(warm, candidate{id: p.ID, finished: p.Finished, live: &shown})
			}
		}
	}
	newer := func(a, b candidate) int {
		if c := b.finished.Compare(a.finished); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	}
	slices.SortFunc(warm, newer)
	var before candidate
	if q.Before != "" {
		if item := t.history.byID[q.Before]; item != nil {
			before = candidate{id: item.id, finished: item.finished}
		}
		if p := t.byID[q.Before]; p != nil {
			before = candidate{id: p.ID, finished: p.Finished}
		}
	}
	take := func(c candidate) bool {
		if q.Before == "" || before.id != "" && newer(before, c) < 0 {
			found = append(found, c)
		}
		return len(found) <= q.Limit
	}
	i := len(t.history.items) - 1
	for {
		for i >= 0 && !q.matches(t.history.items[i].principal, t.history.items[i].text, t.history.items[i].state, v) {
			i--
		}
		var next candidate
		switch {
		case i < 0 && len(warm) == 0:
			return found
		case i >= 0:
			next = candidate{id: t.history.items[i].id, finished: t.history.items[i].finished, packed: t.history.items[i]}
		}
		if i < 0 || len(warm) > 0 && newer(warm[0], next) < 0 {
			next, warm = warm[0], warm[1:]
		} else {
			i--
		}
		if !take(next) {
			return found
		}
	}
}

// listJobs looks what is in the queue.
func (t *Tracker) listJobs() {
	jobs := t.queue.List()
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.EqualFunc(jobs, t.jobs, func(a, b forward.Listed) bool {
		return a.ID == b.ID && a.Revision == b.Revision && a.State == b.State && slices.Equal(a.Tags, b.Tags) && a.NotBefore.Equal(b.NotBefore)
	}) {
		return
	}
	t.seq++
	t.jobs, t.jobsSeq = jobs, t.seq
	t.live.wake()
}

// queue returns the jobs that the viewer may see, in their order.
func (s *Server) queue(v Viewer) []Job {
	shown := []Job{}
	if s.Tracker == nil || s.Tracker.queue == nil {
		return shown
	}
	for _, j := range s.Tracker.queue.List() {
		if v.sees(j.Principal) {
			shown = append(shown, jobOf(j))
		}
	}
	return shown
}

func jobOf(j forward.Listed) Job {
	out := Job{
		ID: j.ID, Push: j.Push, Principal: j.Principal, Upstream: j.Repo.Host, Repository: j.Repo.Name, Reference: j.Digest.String(),
		State: j.State, Tries: j.Attempts, Since: j.Created, Why: j.Error, Bytes: j.Bytes,
	}
	if len(j.Tags) > 0 {
		out.Reference = j.Tags[0]
	}
	switch j.State {
	case metadata.JobQueued:
		out.State = "waiting"
	case metadata.JobRunning:
		out.State, out.Why = "sending", ""
	}
	if j.State == metadata.JobQueued || j.State == metadata.JobNeedsAuth {
		out.NextTry = j.NotBefore
	}
	return out
}

// store returns how much there is.
func (s *Server) store() Store {
	if s.Usage == nil {
		return Store{}
	}
	s.facts.mu.Lock()
	defer s.facts.mu.Unlock()
	return s.facts.stored.get(&s.facts.mu, func(ctx context.Context) (Store, bool) {
		st, err := s.Usage(ctx)
		return st, err == nil
	})
}
