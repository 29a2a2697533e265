package upstreamtest

import (
	"context"
	"net"
	"sync"
)

// Listener is a net.Listener whose connections are in memory, so that the time of
// the server behind it may be fake.
type Listener struct {
	port   int
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen returns a Listener that says it is at a port of 127.0.0.1.
func Listen(port int) *Listener {
	return &Listener{port: port, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to it, whatever the network and address; the error is
// net.ErrClosed after Close and when ctx ends first.
func (l *Listener) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil, net.ErrClosed
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.port} }
