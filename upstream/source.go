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
// body of a request that has been answered.
type source struct {
	open func() (io.ReadCloser, error) // from the blob's start

	mu   sync.Mutex
	r    io.ReadCloser
	pos  int64
	live *section
	err  error // the local reader's fault; never the upstream's
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
	defer s.mu.Unlock()
	s.live = nil
	if err := s.seek(off); err != nil {
		s.err = err
		return nil, err
	}
	s.live = &section{s: s, left: n}
	return s.live, nil
}

// seek needs s.mu. It opens the blob again to go back.
func (s *source) seek(off int64) error {
	if s.r != nil && s.pos != off {
		s.r.Close()
		s.r = nil
	}
	if s.r != nil {
		return nil
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	s.r, s.pos = r, off
	if off == 0 {
		return nil
	}
	if seeker, ok := r.(io.Seeker); ok {
		_, err = seeker.Seek(off, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, off)
	}
	return err
}

// close ends the local reader and every section.
func (s *source) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = nil
	if s.r != nil {
		s.r.Close()
		s.r = nil
	}
}

// section is one request's body.
type section struct {
	s    *source
	left int64
}

func (x *section) Read(p []byte) (int, error) {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.live != x || s.r == nil:
		return 0, errSuperseded
	case x.left == 0:
		return 0, io.EOF
	case x.left > 0 && int64(len(p)) > x.left:
		p = p[:x.left]
	}
	n, err := s.r.Read(p)
	s.pos += int64(n)
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
