package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

const (
	normalChunk  = 8 << 20  // bytes of one PATCH where the upstream sets no bounds
	smallChunk   = 64 << 10 // a registry that refuses this much refuses chunks
	cancelBudget = 5 * time.Second
)

// Send uploads the blob of StartUpload's digest, size bytes long (-1 when not
// known). Where the length is known it is one PUT; what the upstream refuses is
// sent as one PATCH and a PUT, then in chunks, and what worked is remembered. A
// broken upload goes on where the upstream says it is, or starts again.
//
// open returns the blob from its first byte; it is called again for each
// replay, after a 401, a reset or a retry, and its result is closed. A Seeker
// resumes without reading what is skipped. An error of the reader ends Send and
// is in its error.
//
// Nil means that the upstream said 201 and no other digest, or that a HEAD
// confirmed the blob after any other 2xx.
func (u *Upload) Send(ctx context.Context, size int64, open func() (io.ReadCloser, error)) error {
	if u.Digest == "" {
		return errors.New("upstream: Send needs a digest at StartUpload; use Stream and Finish")
	}
	s := &sending{u: u, size: size, src: &source{open: open}, ways: u.c.ways(size)}
	s.t = tries{c: u.c, repo: u.Repo, digest: u.Digest, what: "upload " + u.name()}
	s.chunk = u.c.chunkSize(u.chunkMin, size)
	defer s.src.close()
	if u.used && u.session != nil {
		if done, err := s.reopen(ctx); done || err != nil {
			return err
		}
	}
	u.used = true
	for {
		if done, err := s.round(ctx); done || err != nil {
			return err
		}
	}
}

// Stream sends what r yields as one PATCH of unknown length. It is not retried:
// after an error Send goes on with the session, once Digest is set. n is how
// many bytes were read from r, whose reads must return when ctx ends. It is
// closed when nobody reads it any more, which may be after Stream returned.
func (u *Upload) Stream(ctx context.Context, r io.ReadCloser) (n int64, err error) {
	if u.session == nil {
		r.Close()
		return 0, oci.ErrBlobUploadUnknown.With("the upload of %s has no open session", u.name())
	}
	u.used = true
	opened := false
	src := &source{open: func() (io.ReadCloser, error) {
		if opened {
			return nil, errors.New("a stream cannot be sent twice")
		}
		opened = true
		return r, nil
	}}
	defer src.close()
	s := &sending{u: u, size: -1, src: src}
	k, a, err := s.patch(ctx, 0, -1)
	n, fault := src.state()
	switch {
	case fault != nil:
		return n, fmt.Errorf("read %s: %w", u.name(), fault)
	case err != nil:
		return n, u.c.unreachable(k, err)
	case !a.ok():
		return n, u.c.fail(ctx, k, a, oci.ErrBlobUploadUnknown)
	}
	return n, u.moved(a)
}

// Finish closes an upload that Stream filled: d is the digest of everything
// sent. Nil means what it means for Send.
func (u *Upload) Finish(ctx context.Context, d digest.Digest) error {
	if u.session == nil {
		return oci.ErrBlobUploadUnknown.With("the upload of %s has no open session", u.name())
	}
	u.Digest = d
	k := u.closing()
	a, err := u.c.do(ctx, k)
	if err != nil {
		return err
	}
	if a.ok() {
		return u.confirm(ctx, k, a, -1)
	}
	// An answer that was lost on the way may have been the 201.
	if a.Status == http.StatusNotFound && u.there(ctx, -1) {
		u.session = nil
		return nil
	}
	return u.c.fail(ctx, k, a, oci.ErrBlobUploadUnknown)
}

// closing is the PUT that ends the session, without a body.
func (u *Upload) closing() call {
	target := *u.session
	if target.RawQuery != "" {
		// Whatever state is there is echoed byte for byte.
		target.RawQuery += "&"
	}
	target.RawQuery += "digest=" + url.QueryEscape(u.Digest.String())
	return call{what: "upload " + u.name(), op: OpFinish, repo: u.Repo, digest: u.Digest, method: http.MethodPut, target: &target, slow: true}
}

// confirm judges a 2xx to the closing PUT: only 201 is the specification's
// success, and one that came by a redirect may be anybody's.
func (u *Upload) confirm(ctx context.Context, k call, a *answer, size int64) error {
	if contradicts(a.Header, u.Digest) {
		return oci.ErrUpstream.With("%s took blob %s but calls it %s; it was damaged on the way or the upstream is at fault: try again",
			u.c.Host, u.Digest, plain(a.Header.Get("Docker-Content-Digest"))).Because(errVerdict)
	}
	if a.Status != http.StatusCreated || a.redirected {
		if !u.there(ctx, size) {
			return u.c.fail(ctx, k, a, oci.ErrBlobUnknown)
		}
	}
	u.session = nil
	return nil
}

// there reports whether the upstream has the blob.
func (u *Upload) there(ctx context.Context, size int64) bool {
	n, found, err := u.c.headBlob(ctx, call{repo: u.Repo, single: true}, u.Digest)
	return err == nil && found && (n < 0 || size < 0 || n == size)
}

// chunkSize returns how many bytes one PATCH carries.
func (c *Client) chunkSize(atLeast, size int64) int64 {
	q, n := c.quirk(), int64(normalChunk)
	if c.ChunkSize > 0 {
		n = c.ChunkSize
	}
	if size > 1 {
		n = min(n, (size+1)/2)
	}
	if c.MaxBody > 0 {
		n = min(n, c.MaxBody)
	}
	if q.ChunkMax > 0 {
		n = min(n, q.ChunkMax)
	}
	if l := c.lesson(); l.chunk > 0 {
		n = min(n, l.chunk)
	}
	return max(n, q.ChunkMin, atLeast)
}

// sending is one Send.
type sending struct {
	u     *Upload
	size  int64
	src   *source
	ways  []way // the first is in use
	at    int64 // bytes that the session holds
	best  int64 // the furthest it has been
	chunk int64 // bytes of one PATCH in chunks
	t     tries

	whole0  bool // the session has had the whole body and called it damaged
	lost    bool // the session was lost once without reason
	resumed bool // at did not come from our own requests
	refuse  bool // the upstream does not resume
	teach   bool // a way was refused for what it is
}

// patch sends n bytes from offset off; n < 0 means up to the end.
func (s *sending) patch(ctx context.Context, off, n int64) (call, *answer, error) {
	k := call{what: "upload " + s.u.name(), op: OpPatch, repo: s.u.Repo, digest: s.u.Digest, method: http.MethodPatch, target: s.u.session, slow: true}
	k.attempt = s.t.n + 1
	s.load(&k, off, n)
	a, err := s.u.c.once(ctx, k)
	return k, a, err
}

// put closes the session with the bytes from offset off; without a body when
// the session has them all.
func (s *sending) put(ctx context.Context, off int64) (call, *answer, error) {
	k := s.u.closing()
	if k.attempt = s.t.n + 1; s.size > off {
		k.op = OpUpload
		s.load(&k, off, s.size-off)
	}
	a, err := s.u.c.once(ctx, k)
	return k, a, err
}

// load gives k its body. A stream that starts at 0 has no Content-Range
// (specification, "Pushing a blob in chunks").
func (s *sending) load(k *call, off, n int64) {
	k.header = http.Header{"Content-Type": {"application/octet-stream"}}
	k.size = n
	k.body = func() (io.ReadCloser, error) { return s.src.section(off, n) }
	if n >= 0 && (off > 0 || off+n < s.size) {
		k.header.Set("Content-Range", strconv.FormatInt(off, 10)+"-"+strconv.FormatInt(off+n-1, 10))
	}
}
