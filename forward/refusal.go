package forward

import (
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

const (
	// refusedFor is how long a declined mount is not asked for again.
	refusedFor = 10 * time.Minute
	// refusedAll is how many blobs in a row an upstream declines to mount from
	// one repository in another before no more are tried. One may just have been
	// collected at the source, which says nothing about the others.
	refusedAll = 3
)

// route is the way of a mount, and whose credential asks for it.
type route struct {
	owner    metadata.Owner
	from, to oci.Repo
}

// refusals remembers the mounts that upstreams declined.
type refusals struct {
	mu     sync.Mutex
	routes map[route]*declined
}

type declined struct {
	until   time.Time
	inARow  int
	digests map[digest.Digest]time.Time // until when
}

// lately reports whether it is no use asking for the mount.
func (r *refusals) lately(on route, d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.routes[on]
	now := time.Now()
	return known != nil && (known.inARow >= refusedAll && now.Before(known.until) || now.Before(known.digests[d]))
}

// declined notes that the upstream did not mount d.
func (r *refusals) declined(on route, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for key, old := range r.routes {
		if !now.Before(old.until) {
			delete(r.routes, key)
		}
	}
	if r.routes == nil {
		r.routes = map[route]*declined{}
	}
	known := r.routes[on]
	if known == nil {
		known = &declined{digests: map[digest.Digest]time.Time{}}
		r.routes[on] = known
	}
	maps.DeleteFunc(known.digests, func(_ digest.Digest, until time.Time) bool { return !now.Before(until) })
	known.until = now.Add(refusedFor)
	known.inARow++
	known.digests[d] = known.until
}

// mounted notes that the upstream does mount on the route.
func (r *refusals) mounted(on route, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.routes[on]; known != nil {
		known.inARow = 0
		delete(known.digests, d)
	}
}
