package forward

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

const (
	// idleFor is how long the upstream is kept waiting for a client that sends
	// nothing; then the place goes to another upload.
	idleFor = 15 * time.Second
	// paceAhead is how far, in time at the upstream's rate, a client that is paced
	// may be ahead, and paceLeast how far in bytes at least.
	paceAhead = 10 * time.Second
	paceLeast = 8 << 20
	// pacePoll is how often a client that is held back is looked at again at
	// least: at first it is sooner, since an upload mostly begins in no time.
	pacePoll = 50 * time.Millisecond
)

var errIdle = errors.New("the client sends nothing; its blob is sent on when it is whole")

// arrival counts what the upstream has been sent of a blob that is still being
// received.
type arrival struct {
	sent  atomic.Int64 // bytes
	since atomic.Int64 // Unix nanoseconds of the first byte
	ended atomic.Bool  // nobody sends on any more
}

// Arriving is a blob on its way through: from the client into the cache, and
// behind it to the upstream.
type Arriving struct{ a *arrival }

// Arriving begins to forward a blob of size bytes whose digest is known while it
// arrives under an upload: what is there is skipped, what can be mounted is, and
// the rest follows the client. What goes wrong costs time only.
func (f *Forwarder) Arriving(t *Target, repo oci.Repo, upload string, d digest.Digest, size int64) Arriving {
	a := &arrival{}
	if f.begin() != nil {
		a.ended.Store(true)
		return Arriving{a}
	}
	f.aside(func() {
		defer a.ended.Store(true)
		owner, err := t.Owner(f.life, repo)
		if err != nil {
			return
		}
		e := errand{Descriptor: oci.Descriptor{Digest: d, Size: size}, t: t, owner: owner, repo: repo, uploadID: upload, arrival: a}
		_, _ = f.ensure(f.life, e)
	})
	return Arriving{a}
}

// Pace holds a client back that must not get far ahead of the upstream: it
// returns when the upstream is at most about ten seconds behind the received
// bytes, when nothing is being sent on, or when ctx ends.
func (in Arriving) Pace(ctx context.Context, received int64) {
	poll := time.Millisecond
	for !in.a.ended.Load() && received-in.a.sent.Load() > in.a.allowance() {
		poll = min(2*poll, pacePoll)
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return
		}
	}
}

// allowance is how many bytes the client may be ahead.
func (a *arrival) allowance() int64 {
	since := a.since.Load()
	if since == 0 {
		return paceLeast
	}
	elapsed := max(time.Since(time.Unix(0, since)), time.Second)
	return max(paceLeast, int64(float64(a.sent.Load())*paceAhead.Seconds()/elapsed.Seconds()))
}

// within reports whether size bytes will have been sent in d, if it goes on as it
// did so far.
func (a *arrival) within(d time.Duration, size int64) bool {
	sent, since := a.sent.Load(), a.since.Load()
	if sent == 0 || since == 0 {
		return false
	}
	elapsed := time.Since(time.Unix(0, since))
	return float64(size-sent)/float64(sent)*float64(elapsed) <= float64(d)
}

// patient returns r with its reads counted, and with an end to the patience that
// the upstream has to have: stop is called when a read takes too long.
func (a *arrival) patient(r io.ReadSeekCloser, stop context.CancelCauseFunc) io.ReadSeekCloser {
	return &patient{ReadSeekCloser: r, a: a, stop: stop}
}

type patient struct {
	io.ReadSeekCloser
	a    *arrival
	stop context.CancelCauseFunc
	at   int64
}

func (p *patient) Read(buf []byte) (int, error) {
	idle := time.AfterFunc(idleFor, func() { p.stop(errIdle) })
	n, err := p.ReadSeekCloser.Read(buf)
	idle.Stop()
	p.a.since.CompareAndSwap(0, time.Now().UnixNano())
	p.at += int64(n)
	p.a.sent.Store(p.at)
	return n, err
}

func (p *patient) Seek(offset int64, whence int) (int64, error) {
	at, err := p.ReadSeekCloser.Seek(offset, whence)
	p.at = at
	return at, err
}

// arriving opens the blob while it is received, or from the cache once it is
// there.
func (b *blob) arriving(ctx context.Context) (io.ReadSeekCloser, error) {
	following, stop := context.WithCancelCause(ctx)
	r, err := b.f.cache.Follow(following, b.uploadID)
	if err != nil {
		stop(nil)
		if errors.Is(err, blobcache.ErrUnknown) {
			return b.f.cache.Open(ctx, b.Digest)
		}
		return nil, err
	}
	return closing{b.errand.arrival.patient(r, stop), stop}, nil
}

// closing ends a context with a reader.
type closing struct {
	io.ReadSeekCloser
	stop context.CancelCauseFunc
}

func (c closing) Close() error {
	c.stop(nil)
	return c.ReadSeekCloser.Close()
}

// telling tells watchers how much of a stream was read, ten times a second at
// most.
type telling struct {
	io.ReadCloser
	s    *stream
	at   int64
	told time.Time
}

// Read implements io.Reader.
func (r *telling) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.at += int64(n)
	if now := time.Now(); now.Sub(r.told) > toldEvery {
		r.told = now
		s := r.s
		s.f.tell(Event{Principal: s.t.Principal, Repo: s.repo, Upload: s.upload, Status: Pushing, Current: r.at, Total: -1})
	}
	return n, err
}
