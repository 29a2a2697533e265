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
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
)

// lookFor bounds how long a client's HEAD of a blob may wait for the upstream:
// what cannot be known soon is answered as unknown, and costs an upload to this
// machine at most.
const lookFor = 5 * time.Second

// leastPiece and mostPiece are how many bytes of a blob are written at once.
const (
	leastPiece = 32 << 10
	mostPiece  = blobcache.ChunkSize
)

// held reports whether the principal has had the blob and the cache has it, and
// its length in bytes. A blob that was deleted from the repository is not held
// there until it is pushed again.
func (g *Registry) held(c *call, d digest.Digest) (size int64, ok bool, err error) {
	size, _, ok, err = g.heldAnd(c, d)
	return size, ok, err
}

// heldAnd is held, with what is known of the blob in the repository upstream.
func (g *Registry) heldAnd(c *call, d digest.Digest) (size int64, p metadata.Presence, ok bool, err error) {
	defer func() { g.Metrics.looked(ok, err) }()
	granted, err := g.Meta.Granted(c.Context(), c.principal, d)
	if err != nil || !granted {
		return 0, p, false, err
	}
	if size, err = g.Cache.Stat(c.Context(), d); err != nil {
		if errors.Is(err, blobcache.ErrUnknown) {
			err = nil
		}
		return 0, p, false, err
	}
	p, known, err := g.Meta.Presence(c.Context(), c.repo, d)
	return size, p, err == nil && (!known || p.How != metadata.Deleted), err
}

func (g *Registry) headBlob(c *call) error {
	size, p, ok, err := g.heldAnd(c, c.Digest)
	if err != nil {
		return err
	}
	switch {
	case !ok:
		if size, err = g.look(c); err != nil {
			return err
		}
	case !forward.Fresh(p) && g.eager(c):
		g.Forward.Start(c.target, c.repo, c.Digest, "", "")
	}
	h := c.blobHeader(c.Digest)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// look asks the upstream for the blob's length in bytes. An upstream that does
// not say it leaves nothing to answer: clients take no 200 without a length.
func (g *Registry) look(c *call) (int64, error) {
	ctx, cancel := context.WithTimeout(c.Context(), lookFor)
	defer cancel()
	size, found, err := g.Forward.Look(ctx, c.target, c.repo, c.Digest)
	if err != nil {
		return 0, err
	}
	if !found || size < 0 {
		return 0, oci.ErrBlobUnknown
	}
	g.note(c, "a blob seen upstream is not remembered", g.Forward.Seen(c.Context(), c.target, c.repo, c.Digest, size))
	return size, nil
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
		return g.pull(c.Context(), c, c.w)
	}
	if !ok {
		if err := g.fetch(c); err != nil {
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
	r, w := &readErr{ReadSeeker: b}, &rangeErr{ResponseWriter: c.w}
	if c.r.ProtoMajor == 1 {
		w.blob = b
	}
	http.ServeContent(w, c.r, "", time.Time{}, r)
	if w.refused {
		e := *oci.ErrUnsupported.With("the blob has %d bytes, and %q is no range of them", b.Size(), clip(c.r.Header.Get("Range")))
		e.Status = http.StatusRequestedRangeNotSatisfiable
		return &e
	}
	return r.err
}

// readErr remembers what http.ServeContent does not report.
type readErr struct {
	io.ReadSeeker
	err error
}

// Read implements io.Reader.
func (r *readErr) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// rangeErr keeps back what http.ServeContent says about a bad range: clients
// read errors in the specification's format.
type rangeErr struct {
	http.ResponseWriter
	blob    *blobcache.Blob // written as it lies in memory; nil: through a buffer
	refused bool
}

// WriteHeader implements http.ResponseWriter.
func (w *rangeErr) WriteHeader(status int) {
	if w.refused = status == http.StatusRequestedRangeNotSatisfiable; !w.refused {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (w *rangeErr) Write(p []byte) (int, error) {
	if w.refused {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom implements io.ReaderFrom: http.ServeContent alone would copy 32 KiB at
// a time. Pieces are as long as the client is fast, since each has readPause: one
// that is slow gets short ones, as without this.
func (w *rangeErr) ReadFrom(src io.Reader) (n int64, err error) {
	part, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	from, ok := part.R.(*readErr)
	if !ok || w.blob == nil || w.refused {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	for piece := int64(leastPiece); part.N > 0; {
		p, err := w.blob.Next(min(piece, part.N))
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			from.err = err
			return n, err
		}
		began := time.Now()
		k, err := w.ResponseWriter.Write(p)
		n += int64(k)
		part.N -= int64(k)
		if err != nil {
			return n, err
		}
		if piece = min(2*piece, mostPiece); time.Since(began) > time.Second {
			piece = leastPiece
		}
	}
	return n, nil
}

// deleteBlob passes a deletion on. What the upstream may have deleted has to be
// known here, so a client that leaves does not end it.
func (g *Registry) deleteBlob(c *call) error {
	size, ok, err := g.held(c, c.Digest)
	if err != nil {
		return err
	}
	if ok {
		// An upload that is still under way must not bring it back afterwards. One
		// that fails leaves nothing to delete, which the upstream then says.
		_, _ = g.Forward.Blob(c.lasting(), c.target, c.repo, oci.Descriptor{Digest: c.Digest, Size: size}, "")
	}
	err = c.target.Client.DeleteBlob(c.lasting(), c.repo, c.Digest)
	if err == nil || ok && errors.Is(err, oci.ErrBlobUnknown) {
		if noteErr := g.Forward.Deleted(c.lasting(), c.target, c.repo, c.Digest); noteErr != nil {
			return after(noteErr, err)
		}
	}
	if err != nil {
		return err
	}
	g.Audit.deletion(c)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
