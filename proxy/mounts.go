package proxy

import (
	"context"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
)

// mountFor bounds how long a client's mount may wait for the upstream: some
// clients wait 30 seconds for an answer, and an upload is always one.
const mountFor = 10 * time.Second

// mount answers a client that would rather not send a blob. What it may not see
// or nobody has is not refused: it gets an upload to send it to.
func (g *Registry) mount(c *call) error {
	from := g.source(c)
	size, ok, err := g.held(c, c.Digest)
	if ok && err == nil {
		if g.eager(c) {
			g.Forward.Start(c.target, c.repo, c.Digest, from, "")
		}
		g.spared(c, size)
		return c.created(c.Digest)
	}
	g.note(c, "cannot tell whether a blob is here", err)
	ctx, cancel := context.WithTimeout(c.Context(), mountFor)
	defer cancel()
	mounted, err := g.Forward.Mount(ctx, c.target, c.repo, c.Digest, from)
	if err != nil {
		g.Log.Debug("mount failed", "repository", c.repo.String(), "digest", c.Digest, "error", clip(err.Error()))
	}
	if mounted {
		g.spared(c, -1)
		return c.created(c.Digest)
	}
	return g.startUpload(c)
}

// source translates the repository that the client names into the upstream's
// name for it; one of another upstream is no source.
func (g *Registry) source(c *call) string {
	if c.From == "" {
		return ""
	}
	repo, err := g.repository(c, c.From)
	// A mount is a read of the source.
	if err != nil || repo.Host != c.repo.Host || !c.caller.may(VerbPull, repo) {
		return ""
	}
	return repo.Name
}

// created says that the repository has the blob.
func (c *call) created(d digest.Digest) error {
	h := c.w.Header()
	h.Set("Location", c.location("/blobs/"+d.String()))
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// note logs a failure that costs time at most: facts are shortcuts, and the
// client gets its answer without them.
func (g *Registry) note(c *call, what string, err error) {
	if err != nil && c.Context().Err() == nil {
		g.Log.Warn(what, "repository", c.repo.String(), "digest", c.Digest, "error", clip(err.Error()))
	}
}
