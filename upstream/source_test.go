package upstream

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestOnlyTheNewestSectionReads(t *testing.T) {
	t.Parallel()
	b, _ := blobOf(100)
	opened := 0
	s := &source{open: func() (io.ReadCloser, error) { opened++; return opener(b)() }}
	defer s.close()
	first, err := s.section(0, 60)
	noError(t, err)
	if _, err := io.ReadFull(first, make([]byte, 40)); err != nil {
		t.Fatal(err)
	}
	second, err := s.section(40, 60)
	noError(t, err)
	if n, err := first.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errSuperseded) {
		t.Errorf("the older section: %d, %v; want errSuperseded", n, err)
	}
	got, err := io.ReadAll(second)
	if err != nil || string(got) != string(b[40:]) || opened != 1 {
		t.Errorf("the newer section: %d bytes, %v, opened %d times", len(got), err, opened)
	}
	for _, off := range []int64{70, 10, 0} {
		part, err := s.section(off, -1)
		noError(t, err)
		if got, err := io.ReadAll(part); err != nil || string(got) != string(b[off:]) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	if pos, err := s.state(); pos != 100 || err != nil {
		t.Errorf("state %d, %v", pos, err)
	}
}

// held is a reader whose Read waits until it is let go.
type held struct {
	io.Reader
	reading, let chan struct{}
	closed       bool
}

func (h *held) Read(p []byte) (int, error) {
	h.reading <- struct{}{}
	<-h.let
	return h.Reader.Read(p)
}

func (h *held) Close() error { h.closed = true; return nil }

func TestAReadThatIsUnderWayKeepsItsReader(t *testing.T) {
	t.Parallel()
	b, _ := blobOf(100)
	var opened []*held
	s := &source{open: func() (io.ReadCloser, error) {
		h := &held{bytes.NewReader(b), make(chan struct{}), make(chan struct{}), false}
		opened = append(opened, h)
		return h, nil
	}}
	first, err := s.section(0, -1)
	noError(t, err)
	over := make(chan error)
	go func() {
		_, err := first.Read(make([]byte, 10))
		over <- err
	}()
	<-opened[0].reading
	second, err := s.section(0, -1)
	noError(t, err)
	if len(opened) != 2 || opened[0].closed {
		t.Fatalf("opened %d times; the first is closed: %v", len(opened), opened[0].closed)
	}
	if n, err := first.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errSuperseded) {
		t.Errorf("the older section: %d, %v", n, err)
	}
	opened[0].let <- struct{}{}
	if err := <-over; !errors.Is(err, errSuperseded) || !opened[0].closed {
		t.Errorf("its read ended with %v, closed %v", err, opened[0].closed)
	}
	go func() {
		<-opened[1].reading
		opened[1].let <- struct{}{}
	}()
	if n, err := second.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Errorf("the newer section: %d, %v", n, err)
	}
	if pos, err := s.state(); pos != 10 || err != nil {
		t.Errorf("state %d, %v", pos, err)
	}
	if s.close(); !opened[1].closed {
		t.Error("the newest reader stays open")
	}
}

// counted counts what is read, and whether it was closed.
type counted struct {
	io.Reader
	n      int
	closed bool
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func (c *counted) Close() error { c.closed = true; return nil }

type countedSeeker struct {
	*counted
	io.Seeker
}

func TestWhatIsSkippedIsNotReadWhereItNeedNotBe(t *testing.T) {
	t.Parallel()
	b, _ := blobOf(100)
	for name, test := range map[string]struct {
		seeks bool
		read  int
	}{"a seeker": {true, 30}, "a plain reader": {false, 100}} {
		r := bytes.NewReader(b)
		c := &counted{Reader: r}
		s := &source{open: func() (io.ReadCloser, error) {
			if test.seeks {
				return countedSeeker{c, r}, nil
			}
			return c, nil
		}}
		part, err := s.section(70, 30)
		noError(t, err)
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, b[70:]) || c.n != test.read {
			t.Errorf("%s: %d bytes, %v, %d were read; want %d", name, len(got), err, c.n, test.read)
		}
	}
	c := &counted{Reader: bytes.NewReader(b)}
	s := &source{open: func() (io.ReadCloser, error) { return c, nil }}
	if _, err := s.section(200, 1); !errors.Is(err, io.EOF) || !c.closed {
		t.Errorf("beyond the end: %v, closed %v", err, c.closed)
	}
	if _, err := s.state(); err == nil {
		t.Error("the reader's fault is not remembered")
	}
}
