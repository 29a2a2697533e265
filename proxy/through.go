package proxy

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/oci"
)

// manifestPatience is how long an impatient client waits for a manifest before
// it is asked to repeat it: the repetition joins the push under way. They give
// up 30 s after the end of their request, and repeat a 408 at once, five times
// (containerd/containerd#13682, moby/moby#53700).
const manifestPatience = 25 * time.Second

// unread is how much of a body, in bytes, may wait in the two kernels between a
// client and us. A client takes it for sent and begins to wait for the answer,
// so the end of a body is never held back.
const unread = 8 << 20

var errPatience = errors.New("the client would not wait longer")

// impatient tells the clients that give up on an answer after 30 seconds:
// containerd since 2.3 and docker with its image store. Others wait, and take a
// 408 for the end.
func impatient(r *http.Request) bool {
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "containerd/") || strings.Contains(agent, "containerd-client/")
}

// streamOn sends on what a PATCH brings as soon as it is worth it, before the
// digest is known.
func (g *Registry) streamOn(c *call, u *blobcache.Upload) {
	offset, begun, eager := u.Offset(), false, g.eager(c)
	c.seen = func(n int64) {
		if !begun && eager && offset+n >= forward.StreamAfter {
			begun = true
			g.Forward.Streaming(c.target, c.repo, u.ID())
		}
	}
}

// sendOn sends on what a PUT or POST brings while it is received: the digest and
// the length are known. An impatient client is held back to the upstream's pace,
// so that little is left to do when it sends the manifest.
func (g *Registry) sendOn(c *call, u *blobcache.Upload) {
	if u.Offset() != 0 || c.r.ContentLength <= blobcache.ChunkSize || !g.eager(c) {
		return
	}
	arriving := g.Forward.Arriving(c.target, c.repo, u.ID(), c.Digest, c.r.ContentLength)
	if impatient(c.r) {
		c.seen = func(n int64) {
			if c.r.ContentLength-n > unread {
				arriving.Pace(c.Context(), n)
			}
		}
	}
}

// await waits for a push, as long as the client is known to wait for its answer.
func (c *call) await(push *forward.Push) (forward.Result, error) {
	ctx := c.Context()
	if impatient(c.r) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, manifestPatience, errPatience)
		defer cancel()
	}
	result, err := push.Wait(ctx)
	if errors.Is(err, errPatience) {
		e := *oci.ErrUpstream.With("%s is still taking the image; ask again", c.repo.Host).Because(err)
		e.Status = http.StatusRequestTimeout
		return result, &e
	}
	return result, err
}
