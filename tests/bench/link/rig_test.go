package link

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

const (
	rtt  = 50 * time.Millisecond
	rate = 12_500_000 // 100 Mbit/s
)

// rig is a link whose clients and target are in memory, so that its time is the bubble's.
type rig struct {
	*Link
	clients chan net.Conn
	target  func(net.Conn)
}

func newRig(t *testing.T, p Profile, target func(net.Conn)) *rig {
	t.Helper()
	r := &rig{clients: make(chan net.Conn), target: target}
	r.Link = New(p, func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			target(far)
		}()
		return near, nil
	})
	done := make(chan error)
	go func() { done <- r.Serve(listener{r.clients, make(chan struct{}), new(sync.Once)}) }()
	t.Cleanup(func() {
		r.Close()
		if err := <-done; err != nil {
			t.Errorf("a closed link stopped serving with %v", err)
		}
	})
	return r
}

func (r *rig) connect(t *testing.T) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	r.clients <- far
	t.Cleanup(func() { _ = near.Close() })
	return near
}

type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// exchange sends one byte and waits for one.
func exchange(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	b := []byte{1}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// within tells whether got is want, give or take tenths of it.
func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want*9/10 || got > want*11/10 {
		t.Errorf("%s took %v, want %v within a tenth", what, got, want)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
