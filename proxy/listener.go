package proxy

import (
	"net"
	"sync"
)

// Slots bounds the connections of several listeners together. Make it with
// NewSlots.
type Slots struct{ free chan struct{} }

// NewSlots returns room for n connections.
func NewSlots(n int) *Slots { return &Slots{free: make(chan struct{}, n)} }

// Limit returns a listener that accepts while there is room.
func (s *Slots) Limit(l net.Listener) net.Listener {
	return &limited{Listener: l, slots: s, closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	slots  *Slots
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots.free
		return nil, err
	}
	return &slotted{Conn: c, slots: l.slots}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type slotted struct {
	net.Conn
	slots *Slots
	once  sync.Once
}

// NetConn returns the connection itself.
func (c *slotted) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *slotted) Close() error {
	c.once.Do(func() { <-c.slots.free })
	return c.Conn.Close()
}
