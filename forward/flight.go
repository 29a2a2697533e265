package forward

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// errand is one blob that is to be in a repository, and with whose credential.
type errand struct {
	oci.Descriptor
	t      *Target
	owner  metadata.Owner
	repo   oci.Repo
	hint   string // the client's idea of a source, or empty
	verify bool   // the upstream lost something: only what it says now counts

	uploadID string   // the upload that is bringing the blob
	arrival  *arrival // … and what was sent on of it; nil: it is not arriving
	stream   *stream  // what was sent of it before its digest was known, or nil
}

// flightKey names what is moved where, and for whom. Owners do not join each
// other: one's success would tell another what their own credential may not see,
// and one's refusal says nothing of another's. That a blob is sent only once is
// the business of Forwarder.sending.
type flightKey struct {
	principal string
	owner     metadata.Owner
	blobKey
	verify bool
}

// blobKey is a blob in a repository.
type blobKey struct {
	repo   oci.Repo
	digest digest.Digest
}

// flight is one blob on its way. It belongs to nobody in particular: whoever
// waits keeps it going, and with the last one it ends.
type flight struct {
	done    chan struct{} // closed when outcome and err are set
	outcome Outcome
	err     error
	waiters int
	cancel  context.CancelCauseFunc
}

// ensure carries an errand out, or joins the same errand under way. Its caller
// is counted by begin.
func (f *Forwarder) ensure(ctx context.Context, e errand) (Outcome, error) {
	key := flightKey{e.t.Principal, e.owner, blobKey{e.repo, e.Digest}, e.verify}
	for again := false; ; again = true {
		fl, led := f.join(key, e)
		select {
		case <-fl.done:
		case <-ctx.Done():
			f.leave(key, fl, context.Cause(ctx))
			return Outcome{}, context.Cause(ctx)
		}
		// A flight that was planned before the client brought the blob does not
		// know of it; one that began after this call does.
		if led || again || !errors.Is(fl.err, oci.ErrManifestBlobUnknown) {
			return fl.outcome, fl.err
		}
	}
}

// join returns the flight of a key, and whether it had to be begun.
func (f *Forwarder) join(key flightKey, e errand) (fl *flight, led bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[key]; fl != nil {
		fl.waiters++
		return fl, false
	}
	ctx, cancel := f.within(doing(context.Background(), errandOf{digest: e.Digest, upload: e.uploadID}))
	fl = &flight{done: make(chan struct{}), waiters: 1, cancel: cancel}
	f.flights[key] = fl
	f.running.Add(1)
	go func() {
		defer f.running.Done()
		defer cancel(nil)
		began := time.Now()
		fl.err = f.guarded(func() (err error) {
			fl.outcome, err = f.fly(ctx, e)
			return err
		})
		fl.outcome.Took = time.Since(began)
		if fl.err != nil {
			e.tell(f, Event{Status: Failed, Why: why(fl.err)})
		} else {
			f.Metrics.brought(e.repo.Host, fl.outcome)
			f.landed.add(landingKey{key.principal, key.repo, key.digest}, fl.outcome)
		}
		f.drop(key, fl)
		close(fl.done)
	}()
	return fl, true
}

// why says for people why a flight ended without its blob there.
func why(err error) string {
	var e *oci.Error
	if !errors.As(err, &e) && errors.Is(err, context.Canceled) {
		return "given up: the push that needed it is over"
	}
	return oci.AsError(err).Message
}

// leave ends a flight that nobody waits for any more, for the reason why its last
// waiter left. Nobody joins it from now on: the next one begins another.
func (f *Forwarder) leave(key flightKey, fl *flight, why error) {
	f.mu.Lock()
	fl.waiters--
	last := fl.waiters == 0
	f.mu.Unlock()
	if last {
		f.drop(key, fl)
		if !errors.Is(why, ErrClosed) {
			why = context.Canceled
		}
		fl.cancel(why)
	}
}

func (f *Forwarder) drop(key flightKey, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flights[key] == fl {
		delete(f.flights, key)
	}
}

// claim makes the caller the only one to do what key names, until free is
// called. Where somebody does already, it returns the end of that.
func claim[K comparable](f *Forwarder, claims map[K]chan struct{}, key K) (free func(), busy <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if busy := claims[key]; busy != nil {
		return nil, busy
	}
	end := make(chan struct{})
	claims[key] = end
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(claims, key)
		close(end)
	}, nil
}

// fly plans and carries out one blob's way: what is known, a mount, a look, an
// upload.
func (f *Forwarder) fly(ctx context.Context, e errand) (Outcome, error) {
	b, err := f.plan(ctx, e)
	if err != nil {
		return Outcome{}, err
	}
	defer b.cancelSession()
	b.tell(f, Event{Status: Preparing})
	if b.present {
		return b.there(Skipped), nil
	}
	// Mounts that were answered 201 may be what went wrong.
	if !b.verify || !b.ours {
		mounted, err := b.mount(ctx)
		if err != nil {
			return Outcome{}, err
		}
		if mounted {
			return b.there(Mounted), nil
		}
	}
	// A small blob is sent as soon as asked for: both are round trips. One that is
	// on its way already is not asked for either.
	if b.verify || !b.ours || b.Size > smallBlob && !b.stream.sending() && !f.absent.missing(b.owner, blobKey{b.repo, b.Digest}) {
		there, err := b.look(ctx)
		if err != nil {
			return Outcome{}, err
		}
		if there {
			return b.there(Skipped), nil
		}
	}
	how, err := b.upload(ctx)
	if err != nil {
		return Outcome{}, err
	}
	return b.there(how), nil
}

// there tells watchers how the blob came to be there, and returns it.
func (b *blob) there(how How) Outcome {
	switch how {
	case Mounted:
		b.tell(b.f, Event{Status: MountedFrom, From: b.from})
	case Uploaded:
		b.tell(b.f, Event{Status: Pushed, Current: b.Size})
	default:
		b.tell(b.f, Event{Status: AlreadyExists})
	}
	return Outcome{Digest: b.Digest, Size: b.Size, How: how, From: b.from}
}

// tell tells watchers something about the blob.
func (e errand) tell(f *Forwarder, event Event) {
	event.Principal, event.Repo, event.Digest, event.Total = e.t.Principal, e.repo, e.Digest, e.Size
	f.tell(event)
}
