package proxy

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Slots bounds the connections of several listeners together, and those of each
// peer: who has its share is turned away before the others notice. Make it with
// NewSlots.
type Slots struct {
	free chan struct{}
	each int
	name func(net.Conn) string
	log  *slog.Logger

	mu    sync.Mutex
	peers map[string]int
	said  time.Time
}

// saidEvery is how often the log may say that somebody is turned away.
const saidEvery = time.Minute

// NewSlots returns room for n connections, of which each peer, as name calls it,
// may have so many; 0: any number.
func NewSlots(n, each int, name func(net.Conn) string, log *slog.Logger) *Slots {
	return &Slots{free: make(chan struct{}, n), each: each, name: name, log: log, peers: map[string]int{}}
}

// Limit returns a listener that accepts while there is room.
func (s *Slots) Limit(l net.Listener) net.Listener {
	return &limited{Listener: l, slots: s, closed: make(chan struct{})}
}

// enter counts a connection of a peer, if that may have one more.
func (s *Slots) enter(c net.Conn) (peer string, ok bool) {
	if s.each == 0 {
		return "", true
	}
	peer = s.name(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[peer] < s.each {
		s.peers[peer]++
		return peer, true
	}
	if now := time.Now(); now.Sub(s.said) >= saidEvery {
		s.said = now
		s.log.Warn("connections are turned away: one peer has all that it may have (limits.connections)", "peer", peer, "connections", s.each)
	}
	return peer, false
}

func (s *Slots) leave(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[peer]--; s.peers[peer] <= 0 {
		delete(s.peers, peer)
	}
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
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots.free
			return nil, err
		}
		if peer, ok := l.slots.enter(c); ok {
			return &slotted{Conn: c, slots: l.slots, peer: peer}, nil
		}
		// Said by a reset, which clients notice at once.
		if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type slotted struct {
	net.Conn
	slots *Slots
	peer  string
	once  sync.Once
}

// Write implements net.Conn. A deadline is put off for who took leastPiece since
// it was set: a large piece of an answer has no less time than many small ones.
func (c *slotted) Write(p []byte) (n int, err error) {
	for {
		k, err := c.Conn.Write(p[n:])
		n += k
		if n == len(p) || k < leastPiece || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if err := c.Conn.SetWriteDeadline(time.Now().Add(readPause)); err != nil {
			return n, err
		}
	}
}

// NetConn returns the connection itself.
func (c *slotted) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *slotted) Close() error {
	c.once.Do(func() {
		<-c.slots.free
		if c.slots.each > 0 {
			c.slots.leave(c.peer)
		}
	})
	return c.Conn.Close()
}
