package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

const (
	// busyFor is how long a request waits for the one before it on the same
	// upload: a client that reconnects is often faster than the news that its old
	// connection is gone.
	busyFor  = 3 * time.Second
	busyPoll = 20 * time.Millisecond
)

// owner is whose an upload is: nobody else's request reaches it.
func (c *call) owner() string { return c.principal + "\x00" + c.repo.String() }

func (g *Registry) startUpload(c *call) error {
	g.Forward.Warm(c.target, c.repo)
	u, err := g.begin(c, c.Algorithm)
	if err != nil {
		return err
	}
	defer g.idle(c, u)
	c.uploadHeader(u)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// uploadHeader says where the upload goes on and how much of it is here.
func (c *call) uploadHeader(u *blobcache.Upload) {
	h := c.w.Header()
	h.Set("Location", c.location("/blobs/uploads/"+u.ID()))
	h.Set("Docker-Upload-UUID", u.ID())
	h.Set("Range", "0-"+strconv.FormatInt(max(0, u.Offset()-1), 10))
	h.Set("Content-Length", "0")
}

// resume returns the caller's upload, for this request alone.
func (g *Registry) resume(c *call) (*blobcache.Upload, error) {
	deadline := time.Now().Add(busyFor)
	u, err := g.Cache.Resume(c.Context(), c.Upload)
	for errors.Is(err, blobcache.ErrBusy) && time.Now().Before(deadline) {
		select {
		case <-time.After(busyPoll):
		case <-c.Context().Done():
			return nil, c.Context().Err()
		}
		u, err = g.Cache.Resume(c.Context(), c.Upload)
	}
	if err == nil && u.Owner() != c.owner() {
		u.Release()
		err = blobcache.ErrUnknown
	}
	switch {
	case errors.Is(err, blobcache.ErrUnknown):
		return nil, oci.ErrBlobUploadUnknown.With("upload %s is not known here: it was finished, cancelled or expired; start a new one", c.Upload).Because(err)
	case errors.Is(err, blobcache.ErrBusy):
		e := *oci.ErrBlobUploadInvalid.With("another request is writing to upload %s; send its chunks one after the other", c.Upload)
		e.Status = http.StatusConflict
		return nil, &e
	case err != nil:
		return nil, err
	}
	if err := g.use(c, u); err != nil {
		g.idle(c, u)
		return nil, err
	}
	return u, nil
}

// resumed is the handler of a request on an upload: do is called with the
// caller's upload, which is this request's alone until do returns.
func resumed(do func(*Registry, *call, *blobcache.Upload) error) func(*Registry, *call) error {
	return func(g *Registry, c *call) error {
		u, err := g.resume(c)
		if err != nil {
			return err
		}
		defer g.idle(c, u)
		return do(g, c, u)
	}
}

func (g *Registry) uploadStatus(c *call, u *blobcache.Upload) error {
	// From now on the client counts on this offset.
	if err := u.Checkpoint(c.lasting()); err != nil {
		return err
	}
	c.uploadHeader(u)
	c.w.Header().Del("Content-Length")
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (g *Registry) cancelUpload(c *call, u *blobcache.Upload) error {
	if err := u.Cancel(c.lasting()); err != nil {
		return err
	}
	g.Limits.ended(c.principal, u.ID())
	g.incoming(c, u, "").End("", 0, "the client gave this upload up")
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// uploadChunk takes a PATCH: a chunk with its range, or a stream without. What
// a client sent before it went away is kept, for it to go on from there.
func (g *Registry) uploadChunk(c *call, u *blobcache.Upload) error {
	length, err := c.align(u)
	if err != nil {
		return err
	}
	g.streamOn(c, u)
	in := g.incoming(c, u, "")
	err = c.receive(u, length)
	in.End("", u.Offset(), why(err))
	switch {
	case err == nil:
		err = u.Checkpoint(c.lasting())
	case errors.Is(err, errBroken):
		err = after(err, u.Checkpoint(c.lasting()))
	case errors.Is(err, oci.ErrSizeInvalid):
		err = after(err, u.Rollback(c.lasting()))
	}
	if err != nil {
		return err
	}
	c.uploadHeader(u)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// finishUpload takes the closing PUT, with or without a last part of the body.
// One that fails changes nothing: its own body is dropped, what came before
// stays, and the client may repeat it. One that repeats a success succeeds.
func (g *Registry) finishUpload(c *call) error {
	u, err := g.resume(c)
	if errors.Is(err, oci.ErrBlobUploadUnknown) {
		return g.finishAgain(c, err)
	}
	if err != nil {
		return err
	}
	defer g.idle(c, u)
	length, err := c.align(u)
	if err != nil {
		return err
	}
	g.sendOn(c, u)
	if err = g.whole(c, u, length); err != nil {
		return after(err, u.Rollback(c.lasting()))
	}
	return g.accepted(c, u.ID())
}

// finishAgain answers a closing PUT whose upload is not there (unknown says so):
// where it was finished before, this is a client that missed the answer.
func (g *Registry) finishAgain(c *call, unknown error) error {
	if _, ok, err := g.held(c, c.Digest); err != nil || !ok {
		return after(unknown, err)
	}
	// Not every client reads an answer that comes before the end of its body.
	if err := c.receive(io.Discard, -1); err != nil {
		return err
	}
	return g.accepted(c, "")
}

// uploadWhole takes a blob in one POST.
func (g *Registry) uploadWhole(c *call) error {
	u, err := g.begin(c, c.Digest.Algorithm())
	if err != nil {
		return err
	}
	defer g.idle(c, u)
	g.sendOn(c, u)
	if err = g.whole(c, u, -1); err != nil {
		g.Limits.ended(c.principal, u.ID())
		return after(err, u.Cancel(c.lasting()))
	}
	return g.accepted(c, u.ID())
}

// accepted records that the principal has brought the whole blob, by the upload
// or an earlier one, starts to forward it and says so.
func (g *Registry) accepted(c *call, upload string) error {
	g.Limits.ended(c.principal, upload)
	if err := g.gained(c, c.Digest); err != nil {
		return err
	}
	if err := g.Meta.Grant(c.lasting(), c.principal, c.Digest); err != nil {
		return err
	}
	if err := g.Forward.Received(c.lasting(), c.repo, c.Digest); err != nil {
		return err
	}
	if g.eager(c) {
		g.Forward.Start(c.target, c.repo, c.Digest, "", upload)
	}
	return c.created(c.Digest)
}
