package proxy

import (
	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/forward"
)

// incoming tells watchers of the request that brings bytes of an upload; d is
// the blob's digest where it is known. Its End has to be called.
func (g *Registry) incoming(c *call, u *blobcache.Upload, d digest.Digest) *forward.Incoming {
	total := int64(-1)
	if d != "" && c.r.ContentLength >= 0 {
		total = u.Offset() + c.r.ContentLength
	}
	in := g.Forward.Incoming(c.target, c.repo, u.ID(), clip(c.r.UserAgent()), d, u.Offset(), total)
	paced := c.seen
	c.seen = func(n int64) {
		in.Got(n)
		if paced != nil {
			paced(n)
		}
	}
	return in
}

// whole takes the rest of a blob, of the length unless that is negative, and
// commits it.
func (g *Registry) whole(c *call, u *blobcache.Upload, length int64) error {
	in := g.incoming(c, u, c.Digest)
	err := c.receive(u, length)
	size := u.Offset()
	if err == nil {
		err = u.Commit(c.lasting(), c.Digest)
	}
	if err != nil {
		in.End("", size, why(err))
		return err
	}
	in.End(c.Digest, size, "")
	return nil
}

// spared tells watchers of a blob of size bytes (negative: not known) that the
// client need not send.
func (g *Registry) spared(c *call, size int64) {
	g.Forward.Incoming(c.target, c.repo, "", clip(c.r.UserAgent()), c.Digest, 0, size).End(c.Digest, size, "")
}

// why is what watchers are told of an error.
func why(err error) string {
	if err == nil {
		return ""
	}
	return clip(shown(err).Message)
}
