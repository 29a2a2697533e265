package proxy

import (
	"context"
	"net/http"

	"github.com/opencontainers/go-digest"

	"pushproxy/forward"
	"pushproxy/oci"
)

// What a client may send with a manifest to say whether it waits for the
// upstream, and what it gets with the answer when it did not.
const (
	modeQuery  = "pushproxy-mode"
	modeHeader = "Pushproxy-Mode"
	jobHeader  = "Pushproxy-Job"
)

// async reports whether the client of a manifest does not wait for the upstream.
func (g *Registry) async(c *call) (bool, error) {
	mode := c.r.URL.Query().Get(modeQuery)
	if mode == "" {
		mode = c.r.Header.Get(modeHeader)
	}
	switch {
	case mode == "sync":
		return false, nil
	case mode != "" && mode != "async":
		return false, oci.ErrUnsupported.With("%s %q is neither sync nor async", modeHeader, clip(mode))
	case g.Queue == nil:
		return false, nil
	}
	return mode == "async" || g.Async != nil && g.Async(c.repo), nil
}

// eager reports whether blobs go on to the upstream before their manifest: not
// while a push would only be queued and the upstream is to be left alone.
func (g *Registry) eager(c *call) bool {
	return g.Queue == nil || g.Async == nil || !g.Async(c.repo) || !g.Queue.Quiet(c.repo.Host)
}

// promise answers 201 when the push is safe in the queue, and says that it is
// there and no further.
func (g *Registry) promise(c *call, job forward.Job) error {
	queued, err := g.Queue.Accept(c.lasting(), job, c.credential(c.lasting()))
	if err != nil {
		return err
	}
	g.Audit.queued(c, job, queued.ID, queued.Push)
	g.Log.Info("push queued", "push", queued.Push, "repository", job.Repo.String(), "reference", job.Reference(), "digest", job.Digest, "job", queued.ID)
	h := c.w.Header()
	h.Set("Location", c.location("/manifests/"+job.Digest.String()))
	h.Set("Docker-Content-Digest", job.Digest.String())
	h.Set(jobHeader, queued.ID)
	h.Set("Warning", `299 - "queued: `+job.Repo.Host+` does not have it yet; pushproxy wait `+wanted(job)+` waits until it does"`)
	for _, tag := range job.Tags {
		h.Add("OCI-Tag", tag)
	}
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// wanted is how people write what a job pushes.
func wanted(job forward.Job) string {
	if job.Tag != "" {
		return job.Repo.String() + ":" + job.Tag
	}
	return job.Repo.String() + "@" + job.Digest.String()
}

// submit starts a push whose client waits. Its tags are held against the queue
// until it has ended, however long the client waits; settled returns when they
// are free again, and older jobs will not write them any more.
func (g *Registry) submit(c *call, job forward.Job) (push *forward.Push, settled func() error, err error) {
	release, err := g.hold(c, append([]string{job.Tag}, job.Tags...))
	if err != nil {
		return nil, nil, err
	}
	if push, err = g.Forward.Submit(c.Context(), job); err != nil {
		return nil, nil, after(err, release(c.lasting(), false))
	}
	if g.Queue == nil {
		return push, func() error { return nil }, nil
	}
	ended := make(chan error, 1)
	push.Then(func(err error) {
		if err == nil {
			g.Queue.Answered(job.Repo.Host)
		}
		ended <- release(c.lasting(), err == nil)
	})
	return push, func() error { return <-ended }, nil
}

// hold keeps the queue from writing tags meanwhile; empty ones are none.
func (g *Registry) hold(c *call, tags []string) (release func(context.Context, bool) error, err error) {
	if g.Queue == nil || len(tags) == 1 && tags[0] == "" {
		return func(context.Context, bool) error { return nil }, nil
	}
	if tags[0] == "" {
		tags = tags[1:]
	}
	return g.Queue.Hold(c.Context(), c.repo, tags)
}

// pending returns a manifest that is queued for the upstream: whoever pushed it
// can read it back at once.
func (g *Registry) pending(c *call) (d oci.Descriptor, raw []byte, ok bool) {
	if g.Queue == nil {
		return d, nil, false
	}
	of, m, ok, err := g.Queue.Pending(c.Context(), c.principal, c.repo, c.Reference())
	if err != nil {
		g.note(c, "what is queued cannot be read; the upstream is asked", err)
		return d, nil, false
	}
	return oci.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(of), Size: int64(len(m.Raw))}, m.Raw, ok
}
