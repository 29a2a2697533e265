package blobcache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Begin starts an upload that hashes with the algorithm, sha256 if it is empty.
// owner, which Owner returns after a Resume too, says whose upload it is in the
// caller's words.
func (c *Cache) Begin(ctx context.Context, algorithm digest.Algorithm, owner string) (*Upload, error) {
	if algorithm == "" {
		algorithm = digest.SHA256
	}
	if !known(algorithm) {
		return nil, oci.ErrUnsupported.With("digest algorithm %q is not supported; use sha256 or sha512", algorithm)
	}
	id := make([]byte, idSize)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("upload id: %w", err)
	}
	u := &Upload{
		c: c, ctx: context.WithoutCancel(ctx), id: hex.EncodeToString(id), owner: owner, algorithm: algorithm,
		created: c.Now().Unix(), hash: algorithm.Hash(), clean: true,
	}
	var err error
	if u.baseHash, err = hashState(u.hash); err != nil {
		return nil, u.named(err)
	}
	if !c.hold(u.id) {
		return nil, u.named(ErrBusy)
	}
	if err := u.save(ctx, u.record(0, u.baseHash), 0, nil); err != nil {
		u.end()
		return nil, u.named(err)
	}
	return u, nil
}

// Resume continues the upload where its last checkpoint left it, or later where
// the process died within a request. The error is ErrUnknown when there is no
// such upload (any more), and ErrBusy while somebody else has it.
func (c *Cache) Resume(ctx context.Context, id string) (*Upload, error) {
	if _, ok := parseID(id); !ok {
		return nil, unknownUpload(id)
	}
	if !c.hold(id) {
		return nil, fmt.Errorf("upload %s: %w: %w", id, ErrBusy,
			oci.ErrBlobUploadInvalid.With("another request is using this upload; wait until it has ended"))
	}
	u, err := c.resume(ctx, id)
	if err != nil {
		c.let(id)
		return nil, err
	}
	return u, nil
}

// resume is Resume for the upload's holder.
func (c *Cache) resume(ctx context.Context, id string) (*Upload, error) {
	raw, err := c.index.Get(ctx, uploadKey(id))
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", id, err)
	}
	if raw == nil {
		return nil, unknownUpload(id)
	}
	var r sessionRecord
	if err := decode(uploadKey(id), raw, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", unknownUpload(id), err)
	}
	u := &Upload{
		c: c, ctx: context.WithoutCancel(ctx), id: id, owner: r.Owner, algorithm: r.Algorithm, created: r.Created,
		base: r.Offset, baseHash: r.Hash, saved: r.Offset, raw: raw,
	}
	if len(r.BaseHash) > 0 {
		u.base, u.baseHash = r.Base, r.BaseHash
	}
	switch err := u.rewind(ctx, r.Offset, r.Hash); {
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("%w: %w", unknownUpload(id), err)
	case err != nil:
		return nil, u.named(err)
	}
	c.tell(id, func(l *live) { l.stored = u.offset - u.offset%ChunkSize })
	return u, nil
}

// rewind makes offset, whose hash state is state, the end of what was received.
func (u *Upload) rewind(ctx context.Context, offset int64, state []byte) error {
	hash := u.algorithm.Hash()
	if err := hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return fmt.Errorf("hash state: %w: %w", ErrDamaged, err)
	}
	var tail []byte
	clean := true
	if rest := int(offset % ChunkSize); rest > 0 {
		// The chunk may have grown since: what it began with is unchanged.
		p, err := u.c.chunk(ctx, u.id, int(offset/ChunkSize), rest, u.c.buffer(rest))
		if err != nil {
			return err
		}
		tail, clean = p[:rest], len(p) == rest
	}
	u.c.recycle(u.tail)
	u.c.rewound(u.id, offset)
	u.hash, u.offset, u.tail, u.clean = hash, offset, tail, clean
	u.sum = checksum(chunkName(u.id, int(offset/ChunkSize)), tail)
	return nil
}

// record returns the session's record at an offset.
func (u *Upload) record(offset int64, state []byte) sessionRecord {
	r := sessionRecord{
		Algorithm: u.algorithm, Owner: u.owner, Created: u.created, Touched: u.c.Now().Unix(),
		Offset: offset, Hash: state,
	}
	if offset != u.base {
		r.Base, r.BaseHash = u.base, u.baseHash
	}
	return r
}

// save replaces the stored record, and stores a sealed chunk before if there is
// one.
func (u *Upload) save(ctx context.Context, record sessionRecord, n int, sealed []byte) error {
	raw := encode(uploadKey(u.id), &record)
	if sealed == nil && bytes.Equal(raw, u.raw) {
		return nil
	}
	done, err := u.c.put(ctx, u.id, n, sealed, Change{Key: uploadKey(u.id), Old: u.raw, New: raw})
	if err != nil {
		return err
	}
	if !done {
		return errTaken
	}
	u.raw, u.saved = raw, record.Offset
	return nil
}

func hashState(h hash.Hash) ([]byte, error) {
	return h.(encoding.BinaryMarshaler).MarshalBinary()
}

func known(a digest.Algorithm) bool { return a == digest.SHA256 || a == digest.SHA512 }

func unknownUpload(id string) error {
	return fmt.Errorf("upload %.64q: %w: %w", id, ErrUnknown, oci.ErrBlobUploadUnknown)
}

// fail keeps err as the upload's end.
func (u *Upload) fail(err error) error {
	u.err = u.named(err)
	return u.err
}

func (u *Upload) named(err error) error { return fmt.Errorf("upload %s: %w", u.id, err) }

// end gives the session back.
func (u *Upload) end() {
	u.c.recycle(u.tail)
	u.tail, u.done = nil, true
	u.c.let(u.id)
}
