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
	lowest  int64         // … and the lowest offset that this led to
	final   *blobRecord   // once it is a blob: where that blob's bytes are
	gone    bool          // cancelled
	changed chan struct{} // closed at the next change
	recent  [2]*shared    // the last chunks stored, by their number's parity
}

// shared is a chunk that was stored just now, for followers right behind. Its
// memory is given back with its last use; Cache.mu guards uses.
type shared struct {
	n    int
	p    []byte
	uses int
}

// Follower reads an upload from its first byte while it grows: an
// io.ReadSeekCloser for one goroutine. It sees whole chunks as they are stored,
// from memory if it is at most two behind and checked as Blob does otherwise,
// and the rest and the end only once the upload is a blob, and so its digest has
// matched.
type Follower struct {
	c       *Cache
	ctx     context.Context
	id      string
	live    *live
	rewinds int
	offset  int64
	chunk   []byte  // the payload of chunk number loaded
	loaded  int     // -1: none
	shared  *shared // chunk's memory, or
	buf     []byte  // chunk's memory, where it is not shared
	other   string  // the upload that has the blob, where it is not this one
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
		if err := f.load(from, n, chunkLength(length, n)); err != nil {
			return 0, fmt.Errorf("follow upload %s: %w", f.id, err)
		}
	}
	k := copy(p, f.chunk[f.offset-int64(n)*ChunkSize:])
	f.offset += int64(k)
	return k, nil
}

// load makes chunk n the current one.
func (f *Follower) load(from string, n, want int) (err error) {
	f.unload()
	f.c.mu.Lock()
	if s := f.live.recent[n%2]; s != nil && s.n == n && from == f.id {
		s.uses++
		f.shared, f.chunk, f.loaded = s, s.p, n
	}
	f.c.mu.Unlock()
	if f.loaded == n {
		return nil
	}
	if f.buf == nil {
		f.buf = f.c.buffer(ChunkSize)
	}
	if f.chunk, err = f.c.chunk(f.ctx, from, n, want, f.buf); err == nil {
		f.loaded = n
	}
	return err
}

// unload forgets the current chunk.
func (f *Follower) unload() {
	if f.shared != nil {
		f.c.mu.Lock()
		f.c.unshare(f.shared)
		f.c.mu.Unlock()
	}
	f.shared, f.chunk, f.loaded = nil, nil, -1
}

// wait returns when there is something to read at the offset: the upload that
// holds the bytes, and how many of them there are.
func (f *Follower) wait() (from string, length int64, err error) {
	for {
		if f.closed {
			return "", 0, errClosed
		}
		l, ended := f.look()
		switch {
		case ended:
			return "", 0, fmt.Errorf("follow upload %s: %w", f.id, ErrEnded)
		case l.final != nil && f.offset >= l.final.Length:
			return "", 0, io.EOF
		case l.final != nil:
			return l.final.Upload, l.final.Length, nil
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

// look returns what is known of the upload now, and whether what was read of it
// is no part of what it will be.
func (f *Follower) look() (l live, ended bool) {
	f.c.mu.Lock()
	l = *f.live
	if l.final != nil && l.final.Upload != f.id && f.other == "" {
		f.other = l.final.Upload
		f.c.open[f.other]++
	}
	f.c.mu.Unlock()
	if l.rewinds != f.rewinds {
		if f.offset > l.lowest {
			return l, true
		}
		f.rewinds = l.rewinds
		f.unload()
	}
	return l, l.gone && l.final == nil
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
	f.unload()
	f.c.recycle(f.buf)
	f.buf = nil
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.c.unopen(f.id)
	if f.other != "" {
		f.c.unopen(f.other)
	}
	f.c.unlive(f.id, f.live)
	return nil
}

// unopen gives a reading of an upload's chunks up. It needs c.mu.
func (c *Cache) unopen(id string) {
	if c.open[id]--; c.open[id] == 0 {
		delete(c.open, id)
	}
}

// unlive gives a use of l up. It needs c.mu.
func (c *Cache) unlive(id string, l *live) {
	if l.users--; l.users == 0 && c.lives[id] == l {
		c.unrecent(l)
		delete(c.lives, id)
	}
}

// unrecent forgets the chunks that were stored just now. It needs c.mu.
func (c *Cache) unrecent(l *live) {
	for i, s := range l.recent {
		if s != nil {
			c.unshare(s)
		}
		l.recent[i] = nil
	}
}

// unshare gives a use of s up. It needs c.mu.
func (c *Cache) unshare(s *shared) {
	if s.uses--; s.uses == 0 {
		c.recycle(s.p)
	}
}

// stored tells followers that chunk n, which is full, is stored, and gives them
// its memory, or back to the pool where there are none.
func (c *Cache) stored(id string, n int, full []byte) {
	c.tell(id, func(l *live) {
		l.stored = int64(n+1) * ChunkSize
		if l.users > 1 {
			if s := l.recent[n%2]; s != nil {
				c.unshare(s)
			}
			l.recent[n%2] = &shared{n: n, p: full, uses: 1}
			full = nil
		}
	})
	c.recycle(full)
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
	if l.users > 1 {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// rewound tells followers that the upload ends at offset again.
func (c *Cache) rewound(id string, offset int64) {
	c.tell(id, func(l *live) {
		whole := offset - offset%ChunkSize
		if whole >= l.stored {
			return
		}
		if l.rewinds == 0 || offset < l.lowest {
			l.lowest = offset
		}
		l.stored = whole
		l.rewinds++
		c.unrecent(l)
	})
}
