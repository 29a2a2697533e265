// Package forward makes a repository of an upstream hold a manifest and every
// blob it names. It plans the cheapest way for each blob (nothing, a HEAD, a
// mount, an upload from the cache), runs one flight per blob whoever asks, and
// tells watchers what it does in docker's own words.
//
// It stores nothing itself: bytes are in blobcache, facts in metadata.
package forward

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

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
}

// Forwarder runs pushes. Make it with New; it is safe for concurrent use.
type Forwarder struct {
	cache *blobcache.Cache
	meta  *metadata.DB
	hub   hub

	life    context.Context // ends when Close gives up waiting
	end     context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[flightKey]*flight
	pushes  map[pushKey]*Push
	lanes   map[string]*lane
	recent  map[flightKey]landed  // outcomes that no push has reported yet
	refused map[refusal]time.Time // mounts that an upstream declined, until when
}

// New returns a Forwarder that takes bytes from cache and facts from meta.
func New(cache *blobcache.Cache, meta *metadata.DB) *Forwarder {
	life, end := context.WithCancel(context.Background())
	return &Forwarder{
		cache: cache, meta: meta, life: life, end: end,
		flights: map[flightKey]*flight{},
		pushes:  map[pushKey]*Push{},
		lanes:   map[string]*lane{},
		recent:  map[flightKey]landed{},
		refused: map[refusal]time.Time{},
	}
}

// ErrClosed is the answer to whatever comes after Close.
var ErrClosed = errors.New("forward: pushproxy is stopping")

// Close takes no new work, waits for what is under way until ctx ends, and then
// cancels the rest. It returns ctx's error if anything had to be cancelled.
func (f *Forwarder) Close(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		f.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		f.end()
		return nil
	case <-ctx.Done():
		f.end()
		<-done
		return ctx.Err()
	}
}

// begin counts a goroutine that Close waits for.
func (f *Forwarder) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.running.Add(1)
	return nil
}

// Start begins to forward a cached blob without anybody waiting for it: by the
// time the manifest arrives it should be there. Its failure is not reported;
// the push of the manifest tries again and reports its own.
func (f *Forwarder) Start(t *Target, repo oci.Repo, d digest.Digest, from string) {
	if f.begin() != nil {
		return
	}
	go func() {
		defer f.running.Done()
		size, err := f.cache.Stat(f.life, d)
		if err != nil {
			return
		}
		_, _ = f.Blob(f.life, t, repo, oci.Descriptor{Digest: d, Size: size}, from)
	}()
}

// Mount asks the upstream to mount a blob that the cache does not have for this
// principal: from the repository the client named, if any, else from where this
// owner's credential has seen it. It reports whether the upstream did; a refusal
// of whatever kind is no error.
func (f *Forwarder) Mount(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest, from string) (bool, error) {
	b, err := f.plan(ctx, t, repo, oci.Descriptor{Digest: d}, from)
	if err != nil {
		return false, err
	}
	mounted, err := b.mount(ctx)
	b.cancelSession()
	return mounted, err
}

// Deleted records that the upstream deleted a blob or manifest from a
// repository: until it is pushed there again, only the upstream is asked.
func (f *Forwarder) Deleted(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest) error {
	return errors.Join(f.forget(ctx, t, repo, d), f.meta.SetPresence(ctx, repo, d, metadata.Deleted, -1))
}

// forget drops what is believed of a blob or manifest in a repository.
func (f *Forwarder) forget(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest) error {
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return err
	}
	return errors.Join(f.meta.ForgetPresence(ctx, repo, d), f.meta.DropSource(ctx, owner, d, repo))
}

// Seen records that the upstream showed a blob of size bytes to this target's
// credential.
func (f *Forwarder) Seen(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest, size int64) error {
	p, known, err := f.meta.Presence(ctx, repo, d)
	if err != nil || known && fresh(p, time.Now()) {
		return err
	}
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return err
	}
	return errors.Join(
		f.meta.SetPresence(ctx, repo, d, metadata.Seen, size),
		f.meta.AddSource(ctx, owner, d, repo))
}

// Received clears the mark of a deletion: a principal has brought the blob for
// the repository again.
func (f *Forwarder) Received(ctx context.Context, repo oci.Repo, d digest.Digest) error {
	p, known, err := f.meta.Presence(ctx, repo, d)
	if err != nil || !known || p.How != metadata.Deleted {
		return err
	}
	return f.meta.ForgetPresence(ctx, repo, d)
}

// Learn records, behind the caller's back, where the blobs of a manifest are
// that the upstream showed to this target's credential: they can be mounted from
// there later.
func (f *Forwarder) Learn(t *Target, repo oci.Repo, m oci.Manifest) {
	if len(m.Blobs) == 0 || f.begin() != nil {
		return
	}
	go func() {
		defer f.running.Done()
		owner, err := t.Owner(f.life, repo)
		if err != nil {
			return
		}
		for _, d := range m.Blobs {
			// A fact that is not stored is a mount that is not tried.
			if f.meta.AddSource(f.life, owner, d.Digest, repo) != nil {
				return
			}
		}
	}()
}
