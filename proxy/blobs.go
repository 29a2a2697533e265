package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
)

// lookFor bounds how long a client's HEAD of a blob may wait for the upstream.
// Clients take every answer but 200 and 404 as the end of their push, so what
// cannot be known soon is answered as unknown, and the write that follows says
// what is wrong.
const lookFor = 5 * time.Second

// held reports whether the principal has had the blob and the cache has it, and
// its length in bytes. A blob that was deleted from the repository is not held
// there until it is pushed again.
func (g *Registry) held(c *call, d digest.Digest) (size int64, ok bool, err error) {
	granted, err := g.Meta.Granted(c.Context(), c.principal, d)
	if err != nil || !granted {
		return 0, false, err
	}
	if size, err = g.Cache.Stat(c.Context(), d); err != nil {
		if errors.Is(err, blobcache.ErrUnknown) {
			err = nil
		}
		return 0, false, err
	}
	p, known, err := g.Meta.Presence(c.Context(), c.repo, d)
	return size, !known || p.How != metadata.Deleted, err
}

func (g *Registry) headBlob(c *call) error {
	size, ok, err := g.held(c, c.Digest)
	if err != nil {
		return err
	}
	if ok {
		g.Forward.Start(c.target, c.repo, c.Digest, "")
	} else {
		ctx, cancel := context.WithTimeout(c.Context(), lookFor)
		defer cancel()
		if size, ok, err = c.target.Client.HeadBlob(ctx, c.repo, c.Digest); err != nil {
			return oci.ErrBlobUnknown.Because(err)
		}
		if !ok {
			return oci.ErrBlobUnknown
		}
		if err := g.Forward.Seen(c.Context(), c.target, c.repo, c.Digest, size); err != nil {
			return err
		}
	}
	h := c.blobHeader(c.Digest)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) blobHeader(d digest.Digest) http.Header {
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment")
	h.Set("Docker-Content-Digest", d.String())
	return h
}

func (g *Registry) getBlob(c *call) error {
	_, ok, err := g.held(c, c.Digest)
	if err != nil {
		return err
	}
	if !ok && c.r.Header.Get("Range") == "" {
		return g.pull(c, c.w)
	}
	if !ok {
		// A part cannot be verified, so the whole is fetched first.
		if err := g.pull(c, nil); err != nil {
			return err
		}
	}
	return g.serveBlob(c)
}

// serveBlob answers from the cache, whole or in ranges. The cache verifies what
// it reads; a damaged blob ends the answer short of its Content-Length.
func (g *Registry) serveBlob(c *call) error {
	b, err := g.Cache.Open(c.Context(), c.Digest)
	if errors.Is(err, blobcache.ErrUnknown) {
		return oci.ErrBlobUnknown.Because(err)
	}
	if err != nil {
		return err
	}
	defer b.Close()
	c.blobHeader(c.Digest).Set("ETag", `"`+c.Digest.String()+`"`)
	r := &readErr{ReadSeeker: b}
	http.ServeContent(c.w, c.r, "", time.Time{}, r)
	return r.err
}

// readErr remembers what http.ServeContent does not report.
type readErr struct {
	io.ReadSeeker
	err error
}

func (r *readErr) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func (g *Registry) deleteBlob(c *call) error {
	if err := c.target.Client.DeleteBlob(c.Context(), c.repo, c.Digest); err != nil {
		return err
	}
	if err := g.Forward.Deleted(c.Context(), c.target, c.repo, c.Digest); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// mount answers a client that would rather not send a blob. What it may not see
// or nobody has is not refused: it gets an upload to send it to.
func (g *Registry) mount(c *call) error {
	from := g.source(c)
	_, ok, err := g.held(c, c.Digest)
	if err != nil {
		return err
	}
	if ok {
		g.Forward.Start(c.target, c.repo, c.Digest, from)
		return c.created(c.Digest)
	}
	mounted, err := g.Forward.Mount(c.Context(), c.target, c.repo, c.Digest, from)
	if err != nil {
		g.Log.Debug("mount not tried", "repository", c.repo.String(), "digest", c.Digest, "error", clip(err.Error()))
	}
	if mounted {
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
	repo, err := g.Routes.Route(c.Context(), c.Namespace, c.From)
	if err != nil || repo.Host != c.repo.Host {
		return ""
	}
	return repo.Name
}

// created says that the repository has the blob.
func (c *call) created(d digest.Digest) error {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.Name+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}
