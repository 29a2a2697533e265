package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// named is a connection with the address of a peer.
type named struct {
	net.Conn
	peer string
}

func TestS28OnePeerHasItsShareOfConnectionsAndNoMore(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peers := make(chan string, 8)
	slots := NewSlots(4, 2, func(net.Conn) string { return <-peers }, slog.New(slog.DiscardHandler))
	limited := slots.Limit(l)
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := limited.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(peer string) net.Conn {
		t.Helper()
		peers <- peer
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return nil // turned away while it was made
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	turnedAway := func(c net.Conn) {
		t.Helper()
		if c == nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); err == nil || n > 0 || isTimeout(err) {
			t.Errorf("it is served: %v", err)
		}
	}
	dial("eve")
	first := <-accepted
	dial("eve")
	second := <-accepted
	turnedAway(dial("eve"))
	dial("ann")
	third := <-accepted
	// What has ended makes room, once.
	_, _ = first.Close(), first.Close()
	dial("eve")
	fourth := <-accepted
	turnedAway(dial("eve"))
	for _, c := range []net.Conn{second, third, fourth} {
		_ = c.Close()
	}
	slots.mu.Lock()
	defer slots.mu.Unlock()
	if len(slots.peers) > 0 || len(slots.free) > 1 { // the next Accept holds one
		t.Errorf("%v and %d places are remembered", slots.peers, len(slots.free))
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

func TestS28OnePrincipalHasItsShareOfConnectionsAndNoMore(t *testing.T) {
	t.Parallel()
	l := NewLimits(0, 0, 0)
	l.Connections = 2
	ctx, cancel := context.WithCancel(t.Context())
	on := func(c net.Conn) *http.Request {
		r := httptest.NewRequest("GET", "/v2/", nil)
		return r.WithContext(context.WithValue(ctx, peerKey{}, &peer{conn: c}))
	}
	conns := make([]net.Conn, 5)
	for i := range conns {
		conns[i] = &named{peer: fmt.Sprint(i)}
	}
	want := func(i int, principal string, fine bool) {
		t.Helper()
		if err := l.connected(on(conns[i]), principal); (err == nil) != fine {
			t.Errorf("connection %d of %s: %v", i, principal, err)
		}
	}
	want(0, "eve", true)
	want(1, "eve", true)
	want(1, "eve", true) // the same again
	want(2, "eve", false)
	want(2, "ann", true)
	// A connection that changes hands is the last one's.
	want(0, "ann", true)
	want(3, "ann", false)
	want(3, "eve", true)
	want(4, "eve", false)
	l.ConnState(conns[3], http.StateIdle)
	want(4, "eve", false)
	l.ConnState(conns[3], http.StateClosed)
	want(4, "eve", true)
	for _, c := range conns {
		l.ConnState(c, http.StateClosed)
	}
	// A request that begins after its connection has ended leaves nothing behind.
	cancel()
	want(0, "eve", true)
	if len(l.conns) > 0 || len(l.used) > 0 {
		t.Errorf("%v and %v are remembered", l.conns, l.used)
	}
	if err := l.connected(httptest.NewRequest("GET", "/v2/", nil), "eve"); err != nil {
		t.Errorf("a connection that is not known: %v", err)
	}
}
