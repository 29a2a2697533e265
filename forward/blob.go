package forward

import (
	"context"
	"errors"
	"io"
	"time"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
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
			b.from = source.Name
			return true, b.learned(ctx, metadata.Mounted)
		}
		b.f.declined(b, source)
		b.cancelSession()
		b.session = session
	}
	return false, nil
}

// look asks the upstream for the blob where that is cheaper than sending it, or
// where there is nothing to send.
func (b *blob) look(ctx context.Context) (bool, error) {
	if b.cached && b.Size <= smallBlob {
		return false, nil
	}
	size, found, err := b.t.Client.HeadBlob(ctx, b.repo, b.Digest)
	if err != nil && b.cached && !errors.Is(err, oci.ErrDenied) {
		// An upstream whose HEAD is broken may well take an upload.
		return false, nil
	}
	if err != nil || !found {
		return false, err
	}
	if b.Size == 0 {
		b.Size = size
	}
	return true, b.learned(ctx, metadata.Seen)
}

// upload sends the blob from the cache.
func (b *blob) upload(ctx context.Context) error {
	if !b.cached {
		return oci.ErrManifestBlobUnknown.With(
			"blob %s is neither in %s nor among what this proxy received from you: push it again", b.Digest, b.repo)
	}
	b.f.tell(Event{Repo: b.repo, Digest: b.Digest, Status: Waiting, Total: b.Size})
	release, err := b.f.lane(b.repo.Host).acquire(ctx, b.Size)
	if err != nil {
		return err
	}
	defer release()
	if b.session == nil {
		session, there, err := b.t.Client.StartUpload(ctx, b.repo, b.Digest, "")
		if err != nil {
			return err
		}
		if there {
			return b.learned(ctx, metadata.Uploaded)
		}
		b.session = session
	}
	b.f.tell(Event{Repo: b.repo, Digest: b.Digest, Status: Pushing, Total: b.Size})
	session := b.session
	b.session = nil
	if err := session.Send(ctx, b.Size, func() (io.ReadCloser, error) { return b.open(ctx) }); err != nil {
		if errors.Is(err, blobcache.ErrDamaged) {
			return oci.ErrManifestBlobUnknown.With("blob %s was damaged in the proxy's cache and has been set aside: push it again", b.Digest).Because(err)
		}
		return err
	}
	return b.learned(ctx, metadata.Uploaded)
}

// cancelSession gives an unused session back. The upstream may refuse or be
// gone; it drops the session by itself in time.
func (b *blob) cancelSession() {
	if b.session == nil {
		return
	}
	session := b.session
	b.session = nil
	b.f.running.Add(1)
	go func() {
		defer b.f.running.Done()
		ctx, cancel := context.WithTimeout(b.f.life, 30*time.Second)
		defer cancel()
		_ = session.Cancel(oci.ContextWithRepo(ctx, b.repo))
	}()
}

// open returns the blob's bytes from the start; sending them is told to
// watchers as it goes.
func (b *blob) open(ctx context.Context) (io.ReadCloser, error) {
	r, err := b.f.cache.Open(ctx, b.Digest)
	if err != nil {
		return nil, err
	}
	return &progress{ReadCloser: r, b: b}, nil
}

// progress tells watchers how much was read, ten times a second at most.
type progress struct {
	io.ReadCloser
	b    *blob
	read int64
	told time.Time
}

func (p *progress) Read(buf []byte) (int, error) {
	n, err := p.ReadCloser.Read(buf)
	p.read += int64(n)
	if now := time.Now(); now.Sub(p.told) > 100*time.Millisecond {
		p.told = now
		p.b.f.tell(Event{Repo: p.b.repo, Digest: p.b.Digest, Status: Pushing, Current: p.read, Total: p.b.Size})
	}
	return n, err
}
