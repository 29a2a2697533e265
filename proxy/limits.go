package proxy

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

// Limits keep one principal from taking this machine from the others. Make it
// with NewLimits; a nil Limits limits nothing.
type Limits struct {
	// Uploads is how many uploads a principal may have open; 0: 256. One more ends
	// the one that has been idle longest, if that is for a minute.
	Uploads int
	// Requests is how many requests of a principal are answered at a time; 0: 256.
	Requests int
	// Bytes is how much a principal may store, open uploads included; 0: no limit
	// but the disk's. A blob counts for each principal who has it, until it has
	// left the cache.
	Bytes int64
	// Connections is how many connections a principal may have; 0: any number. It
	// counts them from their first request on; before that nobody knows whose one
	// is, and Slots counts.
	Connections int

	mu    sync.Mutex
	used  map[string]*usage   // by principal
	conns map[net.Conn]string // whose each is
	turns int64
}

const (
	defaultUploads  = 256
	defaultRequests = 256
	// idleFor is how long nobody must have sent anything of an upload before
	// another one may take its place: clients open many, and send one by one.
	idleFor = time.Minute
)

// usage is what one principal uses now.
type usage struct {
	requests int
	conns    int
	open     map[string]*openUpload
	stored   int64 // what blobs add up to
	blobs    map[digest.Digest]kept
}

type openUpload struct {
	bytes int64
	last  time.Time
	busy  bool
}

// NewLimits returns limits with nothing used; zeros stand for the defaults.
func NewLimits(uploads, requests int, bytes int64) *Limits {
	if uploads == 0 {
		uploads = defaultUploads
	}
	if requests == 0 {
		requests = defaultRequests
	}
	return &Limits{Uploads: uploads, Requests: requests, Bytes: bytes, used: map[string]*usage{}, conns: map[net.Conn]string{}}
}

// of returns a principal's usage; it needs mu.
func (l *Limits) of(principal string) *usage {
	u := l.used[principal]
	if u == nil {
		u = &usage{open: map[string]*openUpload{}}
		l.used[principal] = u
	}
	return u
}

// tidy forgets a principal who uses nothing; it needs mu.
func (l *Limits) tidy(principal string) {
	if u := l.used[principal]; u != nil && u.requests == 0 && u.conns == 0 && u.stored == 0 && len(u.open) == 0 {
		delete(l.used, principal)
	}
}

// enter counts a request, until leave is called.
func (l *Limits) enter(principal string) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(principal)
	if u.requests >= l.Requests {
		e := *oci.ErrTooManyRequests.With("%d requests of yours are being answered already; wait for some of them", u.requests)
		e.After = time.Second
		return nil, &e
	}
	u.requests++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		u.requests--
		l.tidy(principal)
	}, nil
}

// begun counts a new upload, and names one that has to end for it; empty: none.
func (l *Limits) begun(principal, id string) (evict string, err error) {
	if l == nil {
		return "", nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(principal)
	if len(u.open) >= l.Uploads {
		oldest := time.Time{}
		for other, o := range u.open {
			if !o.busy && time.Since(o.last) >= idleFor && (evict == "" || o.last.Before(oldest)) {
				evict, oldest = other, o.last
			}
		}
		if evict == "" {
			e := *oci.ErrTooManyRequests.With("%d uploads of yours are open already; finish some of them", len(u.open))
			e.After = 5 * time.Second
			return "", &e
		}
		delete(u.open, evict)
	}
	u.open[id] = &openUpload{last: time.Now(), busy: true}
	return evict, nil
}

// using marks an upload as in use by a request, with so many bytes so far.
func (l *Limits) using(principal, id string, bytes int64, busy bool) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(principal)
	if o := u.open[id]; o != nil || busy {
		u.open[id] = &openUpload{bytes: bytes, last: time.Now(), busy: busy}
	}
}

// charge counts bytes of an upload as they arrive.
func (l *Limits) charge(principal, id string, n int) error {
	if l.room(principal) < int64(n) {
		return l.overQuota()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.of(principal).open[id]; o != nil {
		o.bytes += int64(n)
	}
	return nil
}

// ended forgets an upload.
func (l *Limits) ended(principal, id string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of(principal).open, id)
	l.tidy(principal)
}

// begin starts an upload of the caller's.
func (g *Registry) begin(c *call, algorithm digest.Algorithm) (*blobcache.Upload, error) {
	if g.Limits.room(c.principal) <= 0 {
		return nil, g.Limits.overQuota()
	}
	u, err := g.Cache.Begin(c.Context(), algorithm, c.owner())
	if err != nil {
		return nil, err
	}
	evict, err := g.Limits.begun(c.principal, u.ID())
	if err != nil {
		defer u.Release()
		return nil, after(err, u.Cancel(c.lasting()))
	}
	if evict != "" {
		g.evict(c, evict)
	}
	if err := g.use(c, u); err != nil {
		defer g.idle(c, u)
		g.Limits.ended(c.principal, u.ID())
		return nil, after(err, u.Cancel(c.lasting()))
	}
	return u, nil
}

// evict ends an idle upload. One that came to life in this moment goes on.
func (g *Registry) evict(c *call, id string) {
	old, err := g.Cache.Resume(c.lasting(), id)
	if err != nil {
		return
	}
	defer old.Release()
	g.note(c, "an idle upload is not cancelled", old.Cancel(c.lasting()))
}

// idle marks the end of a request that used an upload.
func (g *Registry) idle(c *call, u *blobcache.Upload) {
	g.Limits.using(c.principal, u.ID(), u.Offset(), false)
	u.Release()
}

// charged is a body whose bytes count against its sender's quota.
type charged struct {
	io.Reader
	charge func(n int) error
}

// Read implements io.Reader.
func (b *charged) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if over := b.charge(n); over != nil {
		return 0, over
	}
	return n, err
}

// use makes the call the one that receives the upload's bytes.
func (g *Registry) use(c *call, u *blobcache.Upload) error {
	g.Limits.using(c.principal, u.ID(), u.Offset(), true)
	if g.Limits == nil || g.Limits.Bytes == 0 {
		return nil
	}
	c.charge = func(n int) error { return g.Limits.charge(c.principal, u.ID(), n) }
	if c.r.ContentLength > g.Limits.room(c.principal) {
		// Said before any of it is read.
		return g.Limits.overQuota()
	}
	return nil
}
