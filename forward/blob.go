package forward

import (
	"context"
	"errors"
	"io"
	"time"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

// mount tries the blob's sources in order. Only the upstream's 201 counts; a
// session that a refusal opened is kept for the upload, an older one cancelled.
func (b *blob) mount(ctx context.Context) (bool, error) {
	for _, source := range b.sources {
		session, mounted, err := b.t.Client.StartUpload(ctx, b.repo, b.Digest, source.Name)
		if err != nil {
			return false, err
		}
		if mounted {
			b.f.refused.mounted(b.route(source), b.Digest)
			b.from = source.Name
			return true, b.learned(ctx, metadata.Mounted)
		}
		b.f.refused.declined(b.route(source), b.Digest)
		b.cancelSession()
		b.session = session
	}
	return false, nil
}

// look asks the upstream for the blob.
func (b *blob) look(ctx context.Context) (bool, error) {
	size, found, err := b.t.Client.HeadBlob(ctx, b.repo, b.Digest)
	if err != nil && b.ours && ctx.Err() == nil {
		// An upstream whose HEAD is broken, or not allowed to this credential,
		// may well take an upload; what it says to that is what counts.
		return false, nil
	}
	if err != nil || !found {
		return false, err
	}
	if !b.ours {
		b.Size = size
	}
	return true, b.learned(ctx, metadata.Seen)
}

// start opens a session where no declined mount has left one.
func (b *blob) start(ctx context.Context) (err error) {
	if b.session == nil {
		b.session = b.resume(ctx)
	}
	if b.session == nil {
		b.session, _, err = b.t.Client.StartUpload(ctx, b.repo, b.Digest, "")
	}
	return err
}

// send uploads the blob: by the end of its stream, or else when its turn comes.
func (b *blob) send(ctx context.Context) (err error) {
	if b.stream.sending() {
		b.tell(b.f, Event{Status: Pushing})
		if b.byStream(ctx) == nil {
			b.ended(ctx, nil)
			return b.learned(ctx, metadata.Uploaded)
		}
		b.rounds++
	}
	b.rescue()
	lane := b.f.lane(b.repo.Host)
	place, err := lane.acquire(ctx, b.t.Principal, b.Size)
	if err != nil {
		return err
	}
	defer func() { lane.release(place, err) }()
	if err := b.start(ctx); err != nil {
		return err
	}
	b.tell(b.f, Event{Status: Pushing})
	b.begun(ctx, b.session.Token())
	err = b.session.Send(ctx, b.Size, func() (io.ReadCloser, error) { return b.open(ctx) })
	b.ended(ctx, err)
	switch {
	case errors.Is(err, blobcache.ErrDamaged):
		return oci.ErrManifestBlobUnknown.With("blob %s was damaged in the proxy's cache and has been set aside: push it again", b.Digest).Because(err)
	case errors.Is(err, blobcache.ErrUnknown):
		return oci.ErrManifestBlobUnknown.With("blob %s left the proxy's cache before it was sent to %s: push it again", b.Digest, b.repo).Because(err)
	case errors.Is(err, blobcache.ErrEnded), errors.Is(err, errIdle):
		return oci.ErrManifestBlobUnknown.With("blob %s did not arrive whole: push it again", b.Digest).Because(err)
	case err != nil:
		return err
	}
	b.session = nil
	return b.learned(ctx, metadata.Uploaded)
}

// cancelSession gives an unfinished session back. The upstream may refuse or be
// gone; it drops the session by itself in time.
func (b *blob) cancelSession() {
	if b.session == nil {
		return
	}
	b.f.abandon(errandOf{digest: b.Digest, upload: b.uploadID}, b.session)
	b.session = nil
}

// abandon gives back, aside, an upload that was begun upstream for what.
func (f *Forwarder) abandon(what errandOf, session *upstream.Upload) {
	f.running.Add(1)
	f.aside(func() {
		ctx, cancel := context.WithTimeout(doing(f.life, what), 30*time.Second)
		defer cancel()
		_ = session.Cancel(ctx)
	})
}

// open returns the blob's bytes from the start; sending them is told to
// watchers as it goes.
func (b *blob) open(ctx context.Context) (io.ReadCloser, error) {
	var r io.ReadSeekCloser
	var err error
	if b.arrival != nil {
		r, err = b.arriving(ctx)
	} else {
		r, err = b.f.cache.Open(ctx, b.Digest)
	}
	if err != nil {
		return nil, err
	}
	b.rounds++
	return &progress{ReadSeekCloser: r, b: b, round: b.rounds}, nil
}

// progress tells watchers how much was read, ten times a second at most. It can
// seek, so that an upload that goes on at its middle does not read its start.
type progress struct {
	io.ReadSeekCloser
	b     *blob
	at    int64
	round int
	told  time.Time
}

func (p *progress) Read(buf []byte) (int, error) {
	n, err := p.ReadSeekCloser.Read(buf)
	p.at += int64(n)
	if now := time.Now(); now.Sub(p.told) > toldEvery {
		p.told = now
		p.b.tell(p.b.f, Event{Status: Pushing, Current: p.at, Round: p.round})
	}
	return n, err
}

func (p *progress) Seek(offset int64, whence int) (int64, error) {
	at, err := p.ReadSeekCloser.Seek(offset, whence)
	p.at = at
	return at, err
}
