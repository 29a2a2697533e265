// Package forward makes a repository of an upstream hold a manifest and every
// blob it names. It plans the cheapest way for each blob (nothing, a mount, a
// HEAD, an upload from the cache), runs it once however many ask, and tells
// watchers what it does in docker's own words.
//
// What one principal may learn never depends on another's pushes: facts count
// only for the owner whose credential saw them, flights are joined by their own
// owner alone, bytes come from the cache only with a grant. Owners share one
// thing: a blob is sent to a repository once at a time, so whoever holds its
// bytes and may push there waits for the other to finish, and then asks the
// upstream with their own credential.
//
// It stores nothing itself: bytes are in blobcache, facts in metadata.
package forward

import (
	"context"
	"crypto/cipher"
	"hash/maphash"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

// Target is one upstream as one principal reaches it: the client injects that
// principal's credential and no other.
type Target struct {
	Principal string
	Host      string
	Client    *upstream.Client
	// Owner is the fingerprint of the credential that a request to the
	// repository would use. An error is the credential source's own.
	Owner func(ctx context.Context, repo oci.Repo) (metadata.Owner, error)
	// Warm fetches what a push to the repository will need before its first
	// request: a connection and a token. Nil: nothing can be had ahead of need.
	Warm func(ctx context.Context, repo oci.Repo) error
}

// Forwarder runs pushes. Make it with New; it is safe for concurrent use.
type Forwarder struct {
	// Uploads is how many uploads an upstream gets at once; nil or 0: five. It is
	// set before the first push.
	Uploads func(host string) int
	// Seal protects where uploads go on after a restart; nil: they begin anew. It
	// is set before the first push.
	Seal cipher.AEAD
	// Metrics counts; nil counts nothing. It is set before the first push.
	Metrics *Metrics
	// Faulted is told of panics that were caught; nil: nobody is. It is set before
	// the first push.
	Faulted func(*oci.Fault)

	cache   *blobcache.Cache
	meta    *metadata.DB
	hub     hub
	refused refusals
	absent  absences
	asking  singleflight.Group // whether repositories exist
	warmth  warmth
	gathers gatherings
	landed  landings

	sessions sessions

	life    context.Context // ends with ErrClosed when Close gives up waiting
	end     func()
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[flightKey]*flight
	sending map[blobKey]chan struct{} // uploads under way; closed at their end
	pushes  map[pushKey]*Push
	lanes   map[string]*lane
	carried map[carryKey]chan struct{} // … from one owner to one upstream
	streams streams
}

// New returns a Forwarder that takes bytes from cache and facts from meta.
func New(cache *blobcache.Cache, meta *metadata.DB) *Forwarder {
	life, end := context.WithCancelCause(context.Background())
	return &Forwarder{
		cache: cache, meta: meta, life: life, end: func() { end(ErrClosed) },
		flights: map[flightKey]*flight{},
		sending: map[blobKey]chan struct{}{},
		pushes:  map[pushKey]*Push{},
		lanes:   map[string]*lane{},
		carried: map[carryKey]chan struct{}{},
		streams: streams{byUpload: map[string]*stream{}, prefixes: map[prefixKey]*stream{}, refused: map[string]time.Time{}, seed: maphash.MakeSeed()},
	}
}

// ErrClosed is the answer to whatever comes after Close, and to what Close had
// to cancel.
var ErrClosed error = &oci.Error{Status: http.StatusServiceUnavailable, Code: oci.ErrUpstream.Code,
	Message: "pushproxy is stopping; push again when it runs again: what it received is kept", After: 5 * time.Second}

// Close takes no new work, waits for what is under way until ctx ends, and then
// cancels the rest. It returns ctx's error if anything had to be cancelled.
// Nothing of the Forwarder runs after it.
func (f *Forwarder) Close(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	defer f.closeGatherings()
	defer f.end()
	done := make(chan struct{})
	go func() {
		f.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		f.end()
		<-done
		return ctx.Err()
	}
}

// begin counts a caller that Close waits for. Whoever is counted may count
// more: work under way goes on when Close has begun.
func (f *Forwarder) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.running.Add(1)
	return nil
}

// within returns a context that ends with ctx, and with ErrClosed when Close
// cancels what is left.
func (f *Forwarder) within(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(f.life, func() { cancel(ErrClosed) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}

// Blob makes the repository hold a blob and returns how. The from is the
// client's hint of a source, or empty. Callers of the same owner share one
// flight, which goes on as long as one of them waits.
//
// A blob that neither the upstream nor this principal's cache has is
// oci.ErrManifestBlobUnknown.
func (f *Forwarder) Blob(ctx context.Context, t *Target, repo oci.Repo, d oci.Descriptor, from string) (Outcome, error) {
	if err := f.begin(); err != nil {
		return Outcome{}, err
	}
	defer f.running.Done()
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return Outcome{}, err
	}
	return f.ensure(ctx, errand{Descriptor: d, t: t, owner: owner, repo: repo, hint: from})
}

// Start begins to forward a cached blob without anybody waiting for it: by the
// time the manifest arrives it should be there. The from is the client's hint of
// a source, upload the one that brought the blob just now; either may be empty.
// Its failure is only told to watchers; the push of the manifest tries again and
// reports its own.
func (f *Forwarder) Start(t *Target, repo oci.Repo, d digest.Digest, from, upload string) {
	if f.begin() != nil {
		return
	}
	f.aside(func() {
		size, err := f.cache.Stat(f.life, d)
		if err != nil {
			return
		}
		owner, err := t.Owner(f.life, repo)
		if err != nil {
			return
		}
		s := f.takeStream(upload, d)
		defer s.drop()
		e := errand{Descriptor: oci.Descriptor{Digest: d, Size: size}, t: t, owner: owner, repo: repo, hint: from, stream: s}
		_, _ = f.ensure(f.life, e)
	})
}

// Mount asks the upstream to mount a blob that the cache does not have for this
// principal: from the repository the client named, if any, else from where this
// owner's credential has seen it. It reports whether the upstream did; a refusal
// of whatever kind is no error.
func (f *Forwarder) Mount(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest, from string) (bool, error) {
	if err := f.begin(); err != nil {
		return false, err
	}
	defer f.running.Done()
	ctx, cancel := f.within(ctx)
	defer cancel(nil)
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return false, err
	}
	b, err := f.plan(ctx, errand{Descriptor: oci.Descriptor{Digest: d, Size: -1}, t: t, owner: owner, repo: repo, hint: from})
	if err != nil {
		return false, err
	}
	defer b.cancelSession()
	mounted, err := b.mount(doing(ctx, errandOf{digest: d}))
	if mounted {
		b.tell(f, Event{Status: MountedFrom, From: b.from})
	}
	return mounted, err
}
