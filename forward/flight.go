package forward

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// How a blob came to be in a repository.
type How string

// The ways, as logs and events name them.
const (
	Skipped  How = "skipped"  // it was there
	Mounted  How = "mounted"  // from another repository of the upstream
	Uploaded How = "uploaded" // from the cache
	Foreign  How = "foreign"  // it lives elsewhere and need not be there
)

// Outcome says what became of one blob.
type Outcome struct {
	Digest digest.Digest
	Size   int64 // bytes
	How    How
	From   string        // repository it was mounted from
	Took   time.Duration // until it was there
}

// flightKey names what is moved where; who asks does not matter.
type flightKey struct {
	repo   oci.Repo
	digest digest.Digest
}

// flight is one blob on its way. It lives as long as somebody waits for it.
type flight struct {
	principal string
	done      chan struct{} // closed when outcome and err are set
	outcome   Outcome
	err       error
	waiters   int
	cancel    context.CancelFunc
}

// landed is a finished flight's outcome, kept until a push reports it.
type landed struct {
	outcome Outcome
	when    time.Time
}

// recentFor is how long an outcome waits for the manifest that it belongs to.
const recentFor = time.Hour

// Blob makes the repository hold a blob and returns how. It joins a flight that
// is under way for the same repository and digest; when that fails for a reason
// of its leader's (it went away, its credential was refused), the next waiter
// takes over with its own. The from is the client's hint of a source, or empty.
//
// A blob that neither the upstream nor this principal's cache has is
// oci.ErrManifestBlobUnknown.
func (f *Forwarder) Blob(ctx context.Context, t *Target, repo oci.Repo, d oci.Descriptor, from string) (Outcome, error) {
	key := flightKey{repo, d.Digest}
	for {
		fl, err := f.join(t, key, d, from)
		if err != nil {
			return Outcome{}, err
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
			f.leave(fl)
			return Outcome{}, context.Cause(ctx)
		}
		f.leave(fl)
		leaderOnly := errors.Is(fl.err, context.Canceled) || (fl.principal != t.Principal && fl.err != nil)
		if !leaderOnly || ctx.Err() != nil || f.life.Err() != nil {
			return fl.outcome, fl.err
		}
	}
}

func (f *Forwarder) join(t *Target, key flightKey, d oci.Descriptor, from string) (*flight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[key]; fl != nil {
		fl.waiters++
		return fl, nil
	}
	if f.closed {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithCancel(f.life)
	fl := &flight{principal: t.Principal, done: make(chan struct{}), waiters: 1, cancel: cancel}
	f.flights[key] = fl
	f.running.Add(1)
	go func() {
		defer f.running.Done()
		defer cancel()
		began := time.Now()
		fl.outcome, fl.err = f.fly(ctx, t, key.repo, d, from)
		fl.outcome.Took = time.Since(began)
		f.land(key, fl)
	}()
	return fl, nil
}

// leave ends a flight that nobody waits for any more.
func (f *Forwarder) leave(fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters == 0 {
		fl.cancel()
	}
}

func (f *Forwarder) land(key flightKey, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flights, key)
	now := time.Now()
	for k, l := range f.recent {
		if now.Sub(l.when) > recentFor {
			delete(f.recent, k)
		}
	}
	// A later flight that found the blob there must not hide how it came.
	if _, known := f.recent[key]; fl.err == nil && (!known || fl.outcome.How != Skipped) {
		f.recent[key] = landed{fl.outcome, now}
	}
	close(fl.done)
}

// report returns how a blob came to be there for the one push that shows it.
func (f *Forwarder) report(key flightKey, last Outcome) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l, ok := f.recent[key]; ok {
		delete(f.recent, key)
		return l.outcome
	}
	return last
}

// fly plans and carries out one blob's way, in the order of docker's push
// engine: what is known, a mount, a look, an upload.
func (f *Forwarder) fly(ctx context.Context, t *Target, repo oci.Repo, d oci.Descriptor, from string) (Outcome, error) {
	b, err := f.plan(ctx, t, repo, d, from)
	if err != nil {
		return Outcome{}, err
	}
	defer b.cancelSession()
	f.tell(Event{Repo: repo, Digest: d.Digest, Status: Preparing, Total: b.Size})
	if b.present {
		f.tell(Event{Repo: repo, Digest: d.Digest, Status: AlreadyExists, Total: b.Size})
		return b.outcome(Skipped), nil
	}
	mounted, err := b.mount(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if mounted {
		f.tell(Event{Repo: repo, Digest: d.Digest, Status: MountedFrom, From: b.from, Total: b.Size})
		return b.outcome(Mounted), nil
	}
	there, err := b.look(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if there {
		f.tell(Event{Repo: repo, Digest: d.Digest, Status: AlreadyExists, Total: b.Size})
		return b.outcome(Skipped), nil
	}
	if err := b.upload(ctx); err != nil {
		return Outcome{}, err
	}
	f.tell(Event{Repo: repo, Digest: d.Digest, Status: Pushed, Current: b.Size, Total: b.Size})
	return b.outcome(Uploaded), nil
}
