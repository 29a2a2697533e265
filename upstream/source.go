package upstream

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

var errSuperseded = errors.New("the request that this body belonged to is over")

// source hands out sections of one blob as request bodies, any of them again
// for a replay. Only the newest section reads: a transport may still hold the
// body of a request that has been answered. No lock is held while the blob is
// opened or read, which may take as long as it likes.
type source struct {
	open func() (io.ReadCloser, error) // from the blob's start

	mu   sync.Mutex
	cur  *cursor
	live *section
	pos  int64 // how far the newest section has come
	err  error // the local reader's fault; never the upstream's
}

// cursor is the blob, opened, at some place.
type cursor struct {
	r    io.ReadCloser
	pos  int64
	busy bool // a Read is under way
	over bool // to be closed when that Read ends
}

// state returns how far the blob has been read, in bytes, and the error of the
// local reader, if it had one.
func (s *source) state() (pos int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos, s.err
}

// section returns n bytes from offset off; n < 0 means up to the end.
func (s *source) section(off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	s.live = nil
	at := s.cur
	if at != nil && (at.busy || at.pos != off) {
		s.drop()
		at = nil
	}
	s.mu.Unlock()
	var err error
	if at == nil {
		at, err = s.seek(off)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.err = err
		return nil, err
	}
	s.cur, s.pos, s.live = at, off, &section{s: s, at: at, left: n}
	return s.live, nil
}

// seek opens the blob at off.
func (s *source) seek(off int64) (*cursor, error) {
	r, err := s.open()
	if err != nil {
		return nil, err
	}
	if seeker, ok := r.(io.Seeker); ok {
		_, err = seeker.Seek(off, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, off)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("go to byte %d: %w", off, err)
	}
	return &cursor{r: r, pos: off}, nil
}

// drop ends the cursor, at once or when its Read ends; it needs s.mu.
func (s *source) drop() {
	if s.cur == nil {
		return
	}
	if s.cur.over = true; !s.cur.busy {
		s.cur.r.Close()
	}
	s.cur = nil
}

// close ends the local reader and every section.
func (s *source) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = nil
	s.drop()
}

// section is one request's body.
type section struct {
	s    *source
	at   *cursor
	left int64
}

func (x *section) Read(p []byte) (int, error) {
	s := x.s
	s.mu.Lock()
	if s.live != x || x.at.busy {
		s.mu.Unlock()
		return 0, errSuperseded
	}
	if x.left == 0 {
		s.mu.Unlock()
		return 0, io.EOF
	}
	if x.left > 0 && int64(len(p)) > x.left {
		p = p[:x.left]
	}
	x.at.busy = true
	s.mu.Unlock()
	n, err := x.at.r.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	return x.done(n, err)
}

// done accounts for a Read; it needs s.mu.
func (x *section) done(n int, err error) (int, error) {
	s := x.s
	x.at.busy = false
	x.at.pos += int64(n)
	if x.at.over {
		x.at.r.Close()
	}
	if s.live != x {
		return 0, errSuperseded
	}
	s.pos = x.at.pos
	if x.left > 0 {
		x.left -= int64(n)
	}
	if err == io.EOF && x.left > 0 {
		err = fmt.Errorf("it ended %d bytes early: %w", x.left, io.ErrUnexpectedEOF)
	}
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Close does nothing: the blob's reader serves the next section too, and a
// transport may close a body while another goroutine reads it.
func (x *section) Close() error { return nil }
