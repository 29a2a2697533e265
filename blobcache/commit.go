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
		if blob, err = u.publish(ctx, d); err != nil {
			return err
		}
	case err != nil:
		return u.named(err)
	}
	if blob.Upload == u.id && d.Algorithm() == u.algorithm {
		u.c.proven.add(u.id, d)
	}
	u.c.use(d)
	if blob.Upload != u.id {
		// The blob is visible: a session that cannot be deleted now idles until
		// Sweep drops it.
		_, _ = u.c.index.Swap(context.WithoutCancel(ctx), uploadKey(u.id), u.raw, nil)
	}
	u.c.tell(u.id, func(l *live) { l.final = &blob })
	u.end()
	return nil
}

// publish writes the blob's record and deletes the session's in one step: from
// the moment the blob is visible nobody may write to its chunks. It returns the
// record of the blob that is visible then.
func (u *Upload) publish(ctx context.Context, d digest.Digest) (blobRecord, error) {
	blob := blobRecord{Upload: u.id, Length: u.offset}
	n, tail := u.unstored()
	done, err := u.c.put(ctx, u.id, n, tail, Change{Key: blobKey(d), New: encode(blobKey(d), &blob)}, Change{Key: uploadKey(u.id), Old: u.raw})
	if done {
		u.c.tally.stored.Add(1)
		u.c.tally.storedBytes.Add(blob.Length)
		return blob, nil
	}
	// Another upload of the same bytes may have been faster, or this one's
	// outcome is not known yet.
	stored, _, lookErr := u.c.lookup(context.WithoutCancel(ctx), d)
	switch {
	case lookErr == nil && (err == nil || stored.Upload == u.id):
		return stored, nil
	case lookErr != nil && !errors.Is(lookErr, ErrUnknown):
		u.unknown = true
		return blob, u.fail(fmt.Errorf("%w; whether the blob is committed is unknown: %w", errors.Join(err, errTaken), lookErr))
	case err == nil:
		return blob, u.fail(errTaken)
	}
	return blob, u.named(err)
}

// digest returns the digest of what was received, in any algorithm.
func (u *Upload) digest(ctx context.Context, algorithm digest.Algorithm) (digest.Digest, error) {
	if algorithm == u.algorithm {
		return digest.NewDigest(algorithm, u.hash), nil
	}
	hash := algorithm.Hash()
	buf := u.c.buffer(ChunkSize)
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

// mismatch is the error of a digest that the received bytes do not have.
func mismatch(want, got digest.Digest, length int64) error {
	return fmt.Errorf("%w: %w", ErrDigestMismatch, oci.ErrDigestInvalid.With(
		"the %d bytes received have the digest %s, not %s; send the blob again", length, got, want))
}
