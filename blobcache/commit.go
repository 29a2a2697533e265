package blobcache

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Commit makes the upload the blob d, checking that it has that digest; d may
// be of another algorithm than the session's, which costs a second reading.
//
// After nil the blob is visible and the session gone; where the blob was here
// already, that copy stays and Sweep drops this one. After ErrDigestMismatch the
// session is as it was. After other errors the blob is not visible, unless the
// store could not say; Resume finds out.
func (u *Upload) Commit(ctx context.Context, d digest.Digest) error {
	if _, err := oci.ParseDigest(string(d)); err != nil {
		return u.named(err)
	}
	if err := u.usable(); err != nil {
		return err
	}
	if err := u.wait(); err != nil {
		return err
	}
	got, err := u.digest(ctx, d.Algorithm())
	if err != nil {
		return u.named(err)
	}
	if got != d {
		return u.named(mismatch(d, got, u.offset))
	}
	blob, _, err := u.c.lookup(ctx, d)
	switch {
	case errors.Is(err, ErrUnknown):
		if err := u.publish(ctx, d); err != nil {
			return err
		}
		blob = blobRecord{Upload: u.id, Length: u.offset}
	case err != nil:
		return u.named(err)
	}
	u.c.use(d)
	// The blob is visible: a session that cannot be deleted now is recognised
	// by its Commit field, or idles until Sweep drops it.
	_, _ = u.c.index.Swap(context.WithoutCancel(ctx), uploadKey(u.id), u.raw, nil)
	u.c.tell(u.id, func(l *live) { l.final = &blob })
	u.end()
	return nil
}

// publish writes the blob's record. The session's record says so before, for
// from the moment the blob is visible nobody may write to its chunks.
func (u *Upload) publish(ctx context.Context, d digest.Digest) error {
	if err := u.settle(ctx); err != nil {
		return err
	}
	state, err := hashState(u.hash)
	if err != nil {
		return u.named(err)
	}
	if err := u.save(ctx, u.record(u.offset, state, d)); err != nil {
		return u.fail(err)
	}
	raw, err := encode(blobKey(d), blobRecord{Upload: u.id, Length: u.offset})
	if err != nil {
		return u.named(err)
	}
	// False means that another upload of the same bytes was faster.
	_, err = u.c.index.Swap(ctx, blobKey(d), nil, raw)
	if err == nil {
		return nil
	}
	ours, lookErr := u.c.refers(context.WithoutCancel(ctx), d, u.id)
	switch {
	case lookErr != nil:
		u.unknown = true
		return u.fail(fmt.Errorf("%w; whether the blob is committed is unknown: %w", err, lookErr))
	case ours:
		return nil
	}
	return u.named(err)
}

// digest returns the digest of what was received, in any algorithm.
func (u *Upload) digest(ctx context.Context, algorithm digest.Algorithm) (digest.Digest, error) {
	if algorithm == u.algorithm {
		return digest.NewDigest(algorithm, u.hash), nil
	}
	hash := algorithm.Hash()
	buf := u.c.buffer()
	defer u.c.recycle(buf)
	for n := range int(u.offset / ChunkSize) {
		p, err := u.c.chunk(ctx, u.id, n, ChunkSize, buf)
		if err != nil {
			return "", err
		}
		hash.Write(p)
	}
	hash.Write(u.tail)
	return digest.NewDigest(algorithm, hash), nil
}

// refers reports whether the blob's bytes are the chunks of the upload.
func (c *Cache) refers(ctx context.Context, d digest.Digest, id string) (bool, error) {
	record, _, err := c.lookup(ctx, d)
	if errors.Is(err, ErrUnknown) {
		return false, nil
	}
	return record.Upload == id, err
}

// mismatch is the error of a digest that the received bytes do not have.
func mismatch(want, got digest.Digest, length int64) error {
	return fmt.Errorf("%w: %w", ErrDigestMismatch, oci.ErrDigestInvalid.With(
		"the %d bytes received have the digest %s, not %s; send the blob again", length, got, want))
}
