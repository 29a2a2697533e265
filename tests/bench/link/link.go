// Package link imitates a long line between programs of one machine: a TCP relay with a delay each way, one rate per
// direction that all connections share, a handshake that costs a round trip, and a slow start of ten segments that
// doubles every round trip.
//
// The line loses nothing and keeps at most one round trip's worth of bytes in its queue, as a congestion control without
// losses would. What a connection has learned of the line is kept while it is idle, as BBR keeps it.
package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Profile is the character of a line. The zero value is a line that adds nothing.
type Profile struct {
	RTT  time.Duration // delay there and back
	Rate int64         // bytes per second in each direction; 0: no limit
}

// Link relays connections to one target. Make it with New; it is safe for concurrent use.
type Link struct {
	dial      func(context.Context) (net.Conn, error)
	up, down  wire // from the clients, to the clients
	life      context.Context
	end       context.CancelFunc
	relays    sync.WaitGroup
	mu        sync.Mutex
	profile   Profile
	listeners []net.Listener
}

// New returns a link whose connections lead to what dial opens.
func New(p Profile, dial func(context.Context) (net.Conn, error)) *Link {
	l := &Link{dial: dial}
	l.life, l.end = context.WithCancel(context.Background())
	l.Set(p)
	return l
}

// Set changes the line. Bytes under way keep the arrival that they were given.
func (l *Link) Set(p Profile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.profile = p
	l.up.set(p)
	l.down.set(p)
}

// Stall lets nothing more onto the line, in either direction, for d.
func (l *Link) Stall(d time.Duration) {
	l.up.stall(d)
	l.down.stall(d)
}

// Carried returns how many bytes the line has taken from the clients and towards them.
func (l *Link) Carried() (up, down int64) { return l.up.carried(), l.down.carried() }

// Serve relays the connections of ln until Close; then it returns nil.
func (l *Link) Serve(ln net.Listener) error {
	l.mu.Lock()
	l.listeners = append(l.listeners, ln)
	l.mu.Unlock()
	for {
		c, err := ln.Accept()
		if err != nil && l.life.Err() == nil {
			return err
		}
		if err != nil || !l.start(c) {
			return nil
		}
	}
}

// start relays a connection, unless the link is closed.
func (l *Link) start(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life.Err() != nil {
		_ = c.Close()
		return false
	}
	l.relays.Go(func() { l.relay(c) })
	return true
}

// Close ends every connection and waits until they are gone.
func (l *Link) Close() {
	l.mu.Lock()
	l.end()
	for _, ln := range l.listeners {
		_ = ln.Close()
	}
	l.mu.Unlock()
	l.relays.Wait()
}

// relay joins a client with the target until both directions have ended or one has failed.
func (l *Link) relay(client net.Conn) {
	defer client.Close()
	ctx, cancel := context.WithCancel(l.life)
	defer cancel()
	l.mu.Lock()
	established := time.Now().Add(l.profile.RTT)
	l.mu.Unlock()
	server, err := l.dial(ctx)
	if err != nil {
		return
	}
	defer server.Close()
	shrink(client)
	shrink(server)
	stop := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	var directions sync.WaitGroup
	directions.Go(func() { l.carry(ctx, cancel, &flow{wire: &l.up, open: established}, client, server) })
	directions.Go(func() { l.carry(ctx, cancel, &flow{wire: &l.down, open: established}, server, client) })
	directions.Wait()
}

// carry moves one direction of a connection. An orderly end is passed on in its turn; a failure ends the connection.
func (l *Link) carry(ctx context.Context, cancel context.CancelFunc, f *flow, src, dst net.Conn) {
	// The buffer between the two is what a receiver would let be under way: a few MiB.
	packets := make(chan packet, 256)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(packets)
		if err := f.read(ctx, src, packets); err != nil {
			cancel()
		}
	})
	err := deliver(ctx, packets, dst)
	if err != nil {
		cancel()
	}
	reader.Wait()
	if err == nil && ctx.Err() == nil {
		closeWrite(dst)
	}
}

// shrink keeps the system from swallowing what is not on the line yet: a real sender has its own buffer only.
func shrink(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(128 << 10)
	}
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	} else {
		_ = c.Close()
	}
}

var errEnded = errors.New("link: closed")
