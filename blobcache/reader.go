package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// Blob reads a blob of the cache: an io.ReadSeekCloser and io.WriterTo, for one
// goroutine.
//
// Each chunk's checksum is tested before a byte of it leaves. Unless the digest
// has matched in this process already, whoever reads from the start gets the
// last chunk only after it does; reads that begin behind the first chunk cannot
// check it.
// What fails a test is never returned: the read ends with ErrDamaged and the
// blob becomes unknown.
type Blob struct {
	c      *Cache
	ctx    context.Context
	d      digest.Digest
	record blobRecord
	raw    []byte // the stored form of record
	offset int64
	chunk  []byte    // the payload of chunk number loaded
	loaded int       // -1: none
	buf    []byte    // chunk's memory
	hash   hash.Hash // nil: the digest is proven
	hashed int       // chunks that hash has seen, always the first ones
	err    error     // what ended the reading
}

var errClosed = errors.New("read of a closed blob")

// Open returns the blob for reading, or ErrUnknown. ctx holds until Close. While
// it is open its bytes stay, even if it is removed.
func (c *Cache) Open(ctx context.Context, d digest.Digest) (*Blob, error) {
	record, raw, err := c.lookup(ctx, d)
	if err != nil {
		return nil, err
	}
	b := c.read(ctx, d, record, raw)
	if c.proven.has(record.Upload, d) {
		b.hash = nil
	}
	return b, nil
}

// read opens the blob of a record.
func (c *Cache) read(ctx context.Context, d digest.Digest, record blobRecord, raw []byte) *Blob {
	c.mu.Lock()
	c.open[record.Upload]++
	c.mu.Unlock()
	return &Blob{c: c, ctx: ctx, d: d, record: record, raw: raw, loaded: -1, hash: d.Algorithm().Hash()}
}

// Size returns the blob's length in bytes.
func (b *Blob) Size() int64 { return b.record.Length }

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	rest, err := b.rest()
	if err != nil {
		return 0, err
	}
	n := copy(p, rest)
	b.offset += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it writes what is left, a chunk at a time.
func (b *Blob) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		rest, err := b.rest()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(rest)
		b.offset += int64(n)
		written += int64(n)
		if err != nil {
			return written, err
		}
		if n < len(rest) {
			return written, io.ErrShortWrite
		}
	}
}

// Next returns the next bytes, at most limit and no more than the chunk has: they
// are the blob's own memory, until its next method is called. At the end the
// error is io.EOF.
func (b *Blob) Next(limit int64) ([]byte, error) {
	rest, err := b.rest()
	if err != nil {
		return nil, err
	}
	rest = rest[:min(int64(len(rest)), limit)]
	b.offset += int64(len(rest))
	return rest, nil
}

// Seek implements io.Seeker.
func (b *Blob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += b.offset
	case io.SeekEnd:
		offset += b.record.Length
	default:
		return 0, fmt.Errorf("blob %s: seek: whence %d is unknown", b.d, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("blob %s: seek before the start", b.d)
	}
	b.offset = offset
	return offset, nil
}

// Close ends the reading. It always returns nil.
func (b *Blob) Close() error {
	if b.err == errClosed {
		return nil
	}
	b.err = errClosed
	b.c.recycle(b.buf)
	b.buf, b.chunk = nil, nil
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.unopen(b.record.Upload)
	return nil
}

// rest returns the checked bytes from the offset to the end of its chunk.
func (b *Blob) rest() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	if b.offset >= b.record.Length {
		return nil, io.EOF
	}
	n := int(b.offset / ChunkSize)
	if b.loaded != n {
		if err := b.load(n); err != nil {
			b.err = b.quarantine(err)
			return nil, b.err
		}
	}
	return b.chunk[b.offset-int64(n)*ChunkSize:], nil
}

// load makes chunk n the current one.
func (b *Blob) load(n int) error {
	b.loaded = -1
	want := chunkLength(b.record.Length, n)
	if b.buf == nil {
		b.buf = b.c.buffer(int(min(b.record.Length, ChunkSize)))
	}
	p, err := b.c.chunk(b.ctx, b.record.Upload, n, want, b.buf)
	if err != nil {
		return err
	}
	if len(p) != want {
		return fmt.Errorf("chunk %s: %d bytes of %d: %w", chunkName(b.record.Upload, n), len(p), want, ErrDamaged)
	}
	if b.hash != nil {
		if err := b.prove(n, p); err != nil {
			return err
		}
	}
	b.chunk, b.loaded = p, n
	return nil
}

// prove adds chunk n to the hash and, with the last chunk of a read from the
// start, checks the digest.
func (b *Blob) prove(n int, p []byte) error {
	if n == 0 {
		b.hash.Reset()
		b.hashed = 0
	}
	if n != b.hashed {
		return nil
	}
	b.hash.Write(p)
	b.hashed++
	if b.hashed < chunksOf(b.record.Length) {
		return nil
	}
	if got := digest.NewDigest(b.d.Algorithm(), b.hash); got != b.d {
		return fmt.Errorf("its bytes have the digest %s: %w", got, ErrDamaged)
	}
	b.c.proven.add(b.record.Upload, b.d)
	return nil
}

// quarantine makes a damaged blob unknown, unless it was replaced meanwhile.
func (b *Blob) quarantine(err error) error {
	if !errors.Is(err, ErrDamaged) {
		return fmt.Errorf("blob %s: %w", b.d, err)
	}
	b.c.tally.damaged.Add(1)
	b.c.proven.drop(b.record.Upload)
	ctx := context.WithoutCancel(b.ctx)
	if _, swapErr := b.c.index.Swap(ctx, blobKey(b.d), b.raw, nil); swapErr != nil {
		return fmt.Errorf("blob %s: %w; removing it: %w", b.d, err, swapErr)
	}
	return fmt.Errorf("blob %s is removed from the cache: %w", b.d, err)
}
