package blobcache

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// provenLimit is how many uploads are remembered as proven: about 6 MiB.
const provenLimit = 1 << 16

// proven are the uploads whose bytes had the digest of their blob, at the commit
// or at a read, in this process. Their later readers test each chunk's checksum,
// which is bound to its place, and not the digest again: that is two thirds of
// what a read costs, and finds nothing that the checksums do not, unless somebody
// exchanges chunks with their checksums under a running process.
type proven struct {
	mu  sync.Mutex
	ids map[string]digest.Digest // by upload
}

func (p *proven) has(id string, d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ids[id] == d
}

func (p *proven) add(id string, d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ids == nil || len(p.ids) >= provenLimit {
		// Whoever is forgotten is proven again by the next read.
		p.ids = make(map[string]digest.Digest)
	}
	p.ids[id] = d
}

func (p *proven) drop(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ids, id)
}
