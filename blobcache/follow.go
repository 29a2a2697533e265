package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ErrEnded: an upload that somebody follows was cancelled, or took back bytes
// that were read already.
var ErrEnded = errors.New("the upload ended before it was a blob")

// live is what followers know of an upload. Cache.mu guards it, and it is kept
// while somebody holds or follows the upload.
type live struct {
	users   int           // the upload's holder and its followers
	stored  int64         // bytes in whole chunks that can be read
	rewinds int           // how often stored bytes were taken back
	final   *blobRecord   // once it is a blob: where that blob's bytes are
	gone    bool          // cancelled
	changed chan struct{} // closed at the next change
}

// Follower reads an upload from its first byte while it grows: an
// io.ReadSeekCloser for one goroutine. It sees whole chunks as they are stored,
// each checked as Blob does, and the rest and the end only once the upload is a
// blob, and so its digest has matched.
type Follower struct {
	c       *Cache
	ctx     context.Context
	id      string
	live    *live
	rewinds int
	offset  int64
	chunk   []byte // the payload of chunk number loaded
	loaded  int    // -1: none
	buf     []byte // chunk's memory
	closed  bool
}

// Follow returns a reader of an upload that is being received, or was and is
// followed still; for any other the error is ErrUnknown. Reads wait for bytes
// until ctx ends; when there will be none they end with ErrEnded.
func (c *Cache) Follow(ctx context.Context, id string) (*Follower, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lives[id]
	if l == nil {
		return nil, unknownUpload(id)
	}
	l.users++
	c.open[id]++
	return &Follower{c: c, ctx: ctx, id: id, live: l, rewinds: l.rewinds, loaded: -1}, nil
}

// Read implements io.Reader.
func (f *Follower) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	from, length, err := f.wait()
	if err != nil {
		return 0, err
	}
	n := int(f.offset / ChunkSize)
	if f.loaded != n {
		if f.buf == nil {
			f.buf = f.c.buffer(ChunkSize)
		}
		f.loaded = -1
		if f.chunk, err = f.c.chunk(f.ctx, from, n, chunkLength(length, n), f.buf); err != nil {
			return 0, fmt.Errorf("follow upload %s: %w", f.id, err)
		}
		f.loaded = n
	}
	k := copy(p, f.chunk[f.offset-int64(n)*ChunkSize:])
	f.offset += int64(k)
	return k, nil
}

// wait returns when there is something to read at the offset: the upload that
// holds the bytes, and how many of them there are.
func (f *Follower) wait() (from string, length int64, err error) {
	for {
		if f.closed {
			return "", 0, errClosed
		}
		f.c.mu.Lock()
		l := *f.live
		f.c.mu.Unlock()
		switch {
		case l.final != nil && f.offset >= l.final.Length:
			return "", 0, io.EOF
		case l.final != nil:
			return l.final.Upload, l.final.Length, nil
		case l.gone || l.rewinds != f.rewinds:
			return "", 0, fmt.Errorf("follow upload %s: %w", f.id, ErrEnded)
		case f.offset < l.stored:
			return f.id, l.stored, nil
		}
		select {
		case <-l.changed:
		case <-f.ctx.Done():
			return "", 0, context.Cause(f.ctx)
		}
	}
}

// Seek implements io.Seeker, but for io.SeekEnd: there is no end yet.
func (f *Follower) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekCurrent {
		offset += f.offset
	} else if whence != io.SeekStart {
		return 0, fmt.Errorf("follow upload %s: seek: whence %d is not supported", f.id, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("follow upload %s: seek before the start", f.id)
	}
	f.offset = offset
	return offset, nil
}

// Close ends the reading. It always returns nil.
func (f *Follower) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	f.c.recycle(f.buf)
	f.buf, f.chunk, f.loaded = nil, nil, -1
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	if f.c.open[f.id]--; f.c.open[f.id] == 0 {
		delete(f.c.open, f.id)
	}
	f.c.unlive(f.id, f.live)
	return nil
}

// unlive gives a use of l up. It needs c.mu.
func (c *Cache) unlive(id string, l *live) {
	if l.users--; l.users == 0 && c.lives[id] == l {
		delete(c.lives, id)
	}
}

// tell changes what followers of an upload know, and wakes them.
func (c *Cache) tell(id string, change func(*live)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lives[id]
	if l == nil {
		return
	}
	change(l)
	close(l.changed)
	l.changed = make(chan struct{})
}

// back tells followers that the upload ends at offset again.
func (l *live) back(offset int64) {
	if whole := offset - offset%ChunkSize; whole < l.stored {
		l.stored = whole
		l.rewinds++
	}
}
