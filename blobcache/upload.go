package blobcache

import (
	"context"
	"errors"
	"hash"
	"hash/crc32"
	"io"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

const (
	// smallBuffer is the bytes of the buffer that an upload begins with; above
	// them it takes one for a whole chunk.
	smallBuffer = 64<<10 + sumSize
	// minRead is the least room that ReadFrom offers a reader, in bytes.
	minRead = 4 << 10
	// saveEvery is how many bytes may pass between two stored offsets.
	saveEvery = 16 << 20
)

var (
	errReleased = errors.New("upload was released, committed or cancelled")
	errTaken    = errors.New("upload's record was changed by somebody else")
)

// Upload receives the bytes of one blob. It belongs to one goroutine, and its
// holder has the session alone until Release, a successful Commit or Cancel.
// Two buffers of a chunk are the most it uses, whatever the blob's length.
//
// After an error of Write, Checkpoint or Commit other than ErrDigestMismatch,
// Rollback leads back to the last checkpoint; Release leaves it to a later
// Resume.
type Upload struct {
	c         *Cache
	ctx       context.Context // for Write; never cancelled
	id        string
	owner     string
	algorithm digest.Algorithm
	created   int64
	hash      hash.Hash
	offset    int64
	tail      []byte // the bytes after the last full chunk
	sum       uint32 // … and their checksum, if there are any
	clean     bool   // chunk n holds exactly tail, or tail is empty

	base     int64 // where Rollback leads
	baseHash []byte
	saved    int64  // the offset in the stored record
	raw      []byte // the stored record

	flight  chan error // the chunk being stored; nil: none
	err     error      // ends everything but Rollback and Release
	unknown bool       // a commit has no known outcome: only Resume can tell
	done    bool
}

// ID returns the session's name: 32 hexadecimal digits, for Resume.
func (u *Upload) ID() string { return u.id }

// Owner returns what Begin was given.
func (u *Upload) Owner() string { return u.owner }

// Algorithm returns the algorithm that the session hashes with.
func (u *Upload) Algorithm() digest.Algorithm { return u.algorithm }

// Offset returns the number of bytes received so far.
func (u *Upload) Offset() int64 { return u.offset }

// Base returns the offset of the last checkpoint, where Rollback leads.
func (u *Upload) Base() int64 { return u.base }

// Write appends p; it implements io.Writer. The bytes become durable in whole
// chunks, behind its back: an error may be that of an earlier Write.
func (u *Upload) Write(p []byte) (int, error) {
	if err := u.usable(); err != nil {
		return 0, err
	}
	written := 0
	for len(p) > 0 {
		k := min(ChunkSize-len(u.tail), len(p))
		u.reserve(k)
		u.tail = append(u.tail, p[:k]...)
		if err := u.took(k); err != nil {
			return written, err
		}
		written += k
		p = p[k:]
	}
	return written, nil
}

// ReadFrom implements io.ReaderFrom: io.Copy reads into the chunk itself. An
// error of r comes back as it is, and what was read before it is received.
func (u *Upload) ReadFrom(r io.Reader) (int64, error) {
	if err := u.usable(); err != nil {
		return 0, err
	}
	for read := int64(0); ; {
		u.reserve(min(ChunkSize-len(u.tail), max(minRead, len(u.tail))))
		k, err := r.Read(u.tail[len(u.tail):min(cap(u.tail)-sumSize, ChunkSize)])
		u.tail = u.tail[:len(u.tail)+k]
		read += int64(k)
		if tookErr := u.took(k); tookErr != nil {
			return read, tookErr
		}
		if err == io.EOF {
			return read, nil
		}
		if err != nil {
			return read, err
		}
	}
}

// took receives the last k bytes of the tail.
func (u *Upload) took(k int) error {
	if k == 0 {
		return nil
	}
	fresh := u.tail[len(u.tail)-k:]
	if len(fresh) == len(u.tail) {
		u.sum = checksum(chunkName(u.id, int(u.offset/ChunkSize)), nil)
	}
	u.hash.Write(fresh)
	// Here they are in the processor's cache, when the chunk is full they are not.
	u.sum = crc32.Update(u.sum, castagnoli, fresh)
	u.offset += int64(k)
	u.clean = false
	if len(u.tail) < ChunkSize {
		return nil
	}
	return u.flush()
}

// Checkpoint makes what was received outlive the process, and the place that
// Rollback and Resume return to. It is for the end of a request, also one that
// broke off: give it a context that outlives the client.
func (u *Upload) Checkpoint(ctx context.Context) error {
	if err := u.usable(); err != nil {
		return err
	}
	if err := u.wait(); err != nil {
		return err
	}
	state, err := hashState(u.hash)
	if err != nil {
		return u.fail(err)
	}
	record := u.record(u.offset, state)
	record.Base, record.BaseHash = 0, nil
	n, tail := u.unstored()
	if err := u.save(ctx, record, n, tail); err != nil {
		return u.fail(err)
	}
	u.clean = true
	u.base, u.baseHash = u.offset, state
	return nil
}

// Rollback forgets what came after the last checkpoint (of this process or an
// earlier one; the start where there was none), and the error that followed.
func (u *Upload) Rollback(ctx context.Context) error {
	if u.done {
		return u.named(errReleased)
	}
	if u.unknown {
		return u.err
	}
	// What could not be stored is forgotten, so its error is too.
	_ = u.wait()
	if err := u.rewind(ctx, u.base, u.baseHash); err != nil {
		return u.fail(err)
	}
	u.err = nil
	if u.saved == u.base {
		return nil
	}
	if err := u.save(ctx, u.record(u.base, u.baseHash), 0, nil); err != nil {
		return u.fail(err)
	}
	return nil
}

// Release ends this holder's use of the session without storing anything: what
// came after the last checkpoint may or may not be there for Resume. It does
// nothing after Commit, Cancel or Release.
func (u *Upload) Release() {
	if u.done {
		return
	}
	_ = u.wait()
	u.end()
}

// Cancel forgets the session; Sweep gives its space back.
func (u *Upload) Cancel(ctx context.Context) error {
	if u.done {
		return u.named(errReleased)
	}
	_ = u.wait()
	if u.unknown {
		return u.err
	}
	done, err := u.c.index.Swap(ctx, uploadKey(u.id), u.raw, nil)
	if err == nil && !done {
		err = errTaken
	}
	if err != nil {
		return u.named(err)
	}
	u.c.tell(u.id, func(l *live) { l.gone = true })
	u.end()
	return nil
}

// usable returns why nothing more can be received.
func (u *Upload) usable() error {
	if u.done {
		return u.named(errReleased)
	}
	return u.err
}

// unstored returns the last chunk sealed, and its number, if it is not stored as
// it is; nil if it is.
func (u *Upload) unstored() (n int, sealed []byte) {
	n = int(u.offset / ChunkSize)
	if u.clean || len(u.tail) == 0 {
		return n, nil
	}
	u.reserve(0)
	return n, withSum(u.tail, u.sum)
}

// flush hands the full chunk to a goroutine that stores it, once the one before
// is stored: hashing and storing overlap, and memory stays at two chunks.
func (u *Upload) flush() error {
	if err := u.wait(); err != nil {
		return err
	}
	var record *sessionRecord
	if u.offset-u.saved >= saveEvery {
		state, err := hashState(u.hash)
		if err != nil {
			return u.fail(err)
		}
		r := u.record(u.offset, state)
		record = &r
	}
	n := int(u.offset/ChunkSize) - 1
	full, sum, flight := u.tail, u.sum, make(chan error, 1)
	u.tail, u.flight = nil, flight
	go func() {
		flight <- oci.Guarded(func() error {
			err := u.c.bodies.PutChunk(u.ctx, u.id, n, withSum(full, sum))
			if err == nil {
				u.c.stored(u.id, n, full)
			}
			if err == nil && record != nil {
				err = u.save(u.ctx, *record, 0, nil)
			}
			return err
		})
	}()
	return nil
}

// wait returns when no chunk is being stored.
func (u *Upload) wait() error {
	if u.flight == nil {
		return nil
	}
	err := <-u.flight
	u.flight = nil
	if err != nil {
		return u.fail(err)
	}
	return nil
}

// reserve makes room for k more bytes of the chunk and its checksum.
func (u *Upload) reserve(k int) {
	need := len(u.tail) + k
	if need+sumSize <= cap(u.tail) {
		return
	}
	room := append(u.c.buffer(need), u.tail...)
	u.c.recycle(u.tail)
	u.tail = room
}
