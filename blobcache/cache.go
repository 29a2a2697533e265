// Package blobcache keeps blobs by digest. Bytes go straight into chunks of
// 1 MiB under the upload that brings them and are hashed on the way, so memory
// does not depend on a blob's size; one small record, written after the digest
// was checked, makes the upload a blob. Nothing leaves unchecked: each chunk
// carries a checksum that is tested by every read, and the first read of a blob
// from the start in a process withholds the last chunk until the digest of the
// whole matches, unless the process received the blob itself.
//
// # Keys
//
// Bodies holds the chunks, Index the records. With badger both are one
// database whose keys are
//
//	chunk/<upload id>/<n>   payload and CRC32C; n is eight hexadecimal digits
//	upload/<upload id>      sessionRecord: an open upload, its offset and hash state
//	blob/<digest>           blobRecord: the upload that holds the bytes, and the length
//	used/<digest>           usedRecord: when the blob was last used, for Collect
//	format                  version of this layout
//	pad                     nothing: it fills a value log that is to end (reclaim.go)
//
// With files, chunks of bodies over 64 KiB are in files/<xx>/<upload id>
// instead (file.go).
//
// An upload id is 32 hexadecimal digits, random. Records are binary (record.go)
// and end with a CRC32C. blob/<digest> is the commit point: without it a blob is not here,
// whatever chunks are. Chunks that neither an upload nor a blob record refers
// to are garbage, which Sweep removes.
//
// What is committed survives the end of the process at any instant. It
// survives a power cut only after Barrier: a cache that loses a blob has a miss.
package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// ChunkSize is the number of a blob's bytes in each chunk but its last.
const ChunkSize = 1 << 20

// What callers ask of an error with errors.Is. Errors that a registry's client
// may see carry an *oci.Error as well.
var (
	// ErrUnknown: the blob, upload or chunk is not here.
	ErrUnknown = errors.New("not in the cache")
	// ErrBusy: the upload is in use by somebody else in this process.
	ErrBusy = errors.New("upload in use")
	// ErrDigestMismatch: the upload's bytes are not those of the digest.
	ErrDigestMismatch = errors.New("digest mismatch")
	// ErrDamaged: stored bytes are not what was stored.
	ErrDamaged = errors.New("stored data is damaged")
	// ErrFull: storing more could fill the disk. Reads and deletes go on.
	ErrFull = errors.New("cache disk is full")
	// ErrFailed: the disk failed under the store, which takes no more writes
	// until it is opened again.
	ErrFailed = errors.New("cache disk failed")
)

// Cache is blobs by digest and the uploads that become blobs. Make it with New.
// At most one Cache may use a store.
type Cache struct {
	// Now is the clock of ages; New sets time.Now. Within a process they are
	// counted by its monotonic readings: a clock that is set ahead makes nothing
	// old. It must not change after the first use.
	Now func() time.Time

	bodies  Bodies
	index   Index
	uses    uses
	tally   tally
	proven  proven
	joint   Joint     // both of them, where the store is one
	summed  Summed    // bodies, if they can
	buffers sync.Pool // of *[ChunkSize + sumSize]byte
	small   sync.Pool // of *[smallBuffer]byte

	mu    sync.Mutex
	held  map[string]struct{}  // uploads in use, by id
	left  map[string]time.Time // when an upload was last in use, by id, since the last Sweep at least
	open  map[string]int       // readers of an upload's chunks, by id
	lives map[string]*live     // uploads in use or followed, by id
}

// New returns the cache whose chunks are in bodies and whose records are in
// index. Whoever opened these closes them.
func New(bodies Bodies, index Index) *Cache {
	c := &Cache{Now: time.Now, bodies: bodies, index: index, held: make(map[string]struct{}), left: make(map[string]time.Time), open: make(map[string]int), lives: make(map[string]*live)}
	c.uses.used, c.uses.condemned, c.uses.pinned = make(map[digest.Digest]time.Time), make(map[digest.Digest]time.Time), make(map[digest.Digest]int)
	if joint, ok := bodies.(Joint); ok && any(index) == any(bodies) {
		c.joint = joint
	}
	c.summed, _ = bodies.(Summed)
	c.buffers.New = func() any { return new([ChunkSize + sumSize]byte) }
	c.small.New = func() any { return new([smallBuffer]byte) }
	return c
}

// Stat returns the length of the blob in bytes, or ErrUnknown. It does not read
// the blob.
func (c *Cache) Stat(ctx context.Context, d digest.Digest) (int64, error) {
	record, _, err := c.lookup(ctx, d)
	return record.Length, err
}

// Remove forgets the blob; readers that have it open go on. Its space returns
// with the next Sweep. The error is ErrUnknown when it is not here.
func (c *Cache) Remove(ctx context.Context, d digest.Digest) error {
	for {
		_, raw, err := c.lookup(ctx, d)
		if err != nil {
			return err
		}
		if done, err := c.index.Swap(ctx, blobKey(d), raw, nil); err != nil || done {
			return err
		}
	}
}

// Barrier returns when the blobs survive a power cut. The error is ErrUnknown
// when one of them is not here.
func (c *Cache) Barrier(ctx context.Context, digests ...digest.Digest) error {
	uploads := make([]string, 0, len(digests))
	for _, d := range digests {
		record, _, err := c.lookup(ctx, d)
		if err != nil {
			return err
		}
		uploads = append(uploads, record.Upload)
	}
	return c.bodies.Barrier(ctx, uploads...)
}

// lookup returns the blob's record and its stored form. A record that cannot be
// read is removed: the blob is unknown from then on.
func (c *Cache) lookup(ctx context.Context, d digest.Digest) (blobRecord, []byte, error) {
	// What is found here is not collected a moment later.
	c.uses.gate.RLock()
	defer c.uses.gate.RUnlock()
	record, raw, err := c.record(ctx, d)
	if err == nil {
		c.use(d)
	}
	return record, raw, err
}

// record is lookup without counting as a use.
func (c *Cache) record(ctx context.Context, d digest.Digest) (blobRecord, []byte, error) {
	var record blobRecord
	if _, err := oci.ParseDigest(string(d)); err != nil {
		return record, nil, err
	}
	raw, err := c.index.Get(ctx, blobKey(d))
	if err != nil {
		return record, nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if raw == nil {
		return record, nil, fmt.Errorf("blob %s: %w", d, ErrUnknown)
	}
	if err := decode(blobKey(d), raw, &record); err != nil {
		c.tally.damaged.Add(1)
		if _, swapErr := c.index.Swap(ctx, blobKey(d), raw, nil); swapErr != nil {
			return blobRecord{}, nil, fmt.Errorf("%w; removing it: %w", err, swapErr)
		}
		return blobRecord{}, nil, fmt.Errorf("blob %s: %w: %w", d, ErrUnknown, err)
	}
	return record, raw, nil
}

// put stores a sealed chunk and makes the changes; p may be nil for none.
func (c *Cache) put(ctx context.Context, upload string, n int, p []byte, changes ...Change) (bool, error) {
	if p == nil {
		return c.index.SwapAll(ctx, changes...)
	}
	if c.joint != nil {
		return c.joint.PutAndSwap(ctx, upload, n, p, changes...)
	}
	if err := c.bodies.PutChunk(ctx, upload, n, p); err != nil {
		return false, err
	}
	return c.index.SwapAll(ctx, changes...)
}

// chunk returns the payload of a chunk, in buf's memory where it fits. The
// error is ErrDamaged when it is missing, shorter than want bytes or changed.
func (c *Cache) chunk(ctx context.Context, upload string, n, want int, buf []byte) ([]byte, error) {
	name := chunkName(upload, n)
	seed := checksum(name, nil)
	var sealed []byte
	var sum uint32
	var err error
	if c.summed != nil {
		sealed, sum, err = c.summed.GetSummed(ctx, upload, n, buf, seed)
	} else {
		sealed, err = c.bodies.GetChunk(ctx, upload, n, buf)
		sum = crc32.Update(seed, castagnoli, sealed[:payload(len(sealed))])
	}
	if errors.Is(err, ErrUnknown) {
		return nil, fmt.Errorf("chunk %s is missing: %w", name, ErrDamaged)
	}
	if err != nil {
		return nil, err
	}
	p, ok := unsealSummed(sealed, sum)
	if !ok || len(p) < want {
		return nil, fmt.Errorf("chunk %s: %d bytes, checksum correct: %t: %w", name, len(sealed), ok, ErrDamaged)
	}
	return p, nil
}

// hold takes the upload for the caller alone, until let.
func (c *Cache) hold(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.held[id]; taken {
		return false
	}
	c.held[id] = struct{}{}
	if c.lives[id] == nil {
		c.lives[id] = &live{changed: make(chan struct{})}
	}
	c.lives[id].users++
	return true
}

func (c *Cache) let(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, id)
	c.left[id] = c.Now()
	c.unlive(id, c.lives[id])
}

// buffer returns room for n payload bytes of a chunk and their checksum; recycle
// takes it back.
func (c *Cache) buffer(n int) []byte {
	if n+sumSize <= smallBuffer {
		return c.small.Get().(*[smallBuffer]byte)[:0]
	}
	return c.buffers.Get().(*[ChunkSize + sumSize]byte)[:0]
}

// recycle gives a buffer back; others than those of buffer are left to the
// garbage collector.
func (c *Cache) recycle(b []byte) {
	switch cap(b) {
	case ChunkSize + sumSize:
		c.buffers.Put((*[ChunkSize + sumSize]byte)(b[:ChunkSize+sumSize]))
	case smallBuffer:
		c.small.Put((*[smallBuffer]byte)(b[:smallBuffer]))
	}
}

func blobKey(d digest.Digest) string { return blobPrefix + string(d) }

func uploadKey(id string) string { return uploadPrefix + id }

// chunksOf returns the number of chunks of a blob.
func chunksOf(length int64) int { return int((length + ChunkSize - 1) / ChunkSize) }

// chunkLength returns the number of the blob's bytes in its chunk n.
func chunkLength(length int64, n int) int {
	return int(min(ChunkSize, length-int64(n)*ChunkSize))
}
