package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
)

// pair is a TCP connection as its other end sees it.
type pair struct{ from, to netip.AddrPort }

// errPeer says that this machine cannot tell who is at the other end.
var errPeer = errors.New("the other end's user cannot be told")

// peer is what was known of a connection's other end when it was accepted.
type peer struct {
	conn net.Conn // as the server knows it
	unix bool
	uid  int
	err  error
}

type peerKey struct{}

// ConnContext is an http.Server's: it looks at the other end while the
// connection is new. Without it only requests are looked at.
func (p *Principals) ConnContext(ctx context.Context, c net.Conn) context.Context {
	found := p.look(c)
	found.conn = c
	return context.WithValue(ctx, peerKey{}, found)
}

// Peer names who is at the other end of a new connection, for limits: the user
// where this machine knows it, else the address.
func (p *Principals) Peer(c net.Conn) string {
	if found := p.look(c); found.err == nil {
		return userName(found.uid)
	}
	return addressName(c.RemoteAddr().String())
}

func (p *Principals) look(c net.Conn) *peer {
	for {
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = outer.NetConn()
	}
	found := &peer{}
	if c.LocalAddr().Network() == "unix" {
		found.unix = true
		found.uid, found.err = unixPeer(c)
	} else {
		found.uid, found.err = p.tcpPeer(c.RemoteAddr(), c.LocalAddr())
	}
	return found
}

// uid returns the user id of the process that sent the request. A TCP peer is
// looked up again: it must be who it was, and have its end still open.
func (p *Principals) uid(r *http.Request) (int, error) {
	before, _ := r.Context().Value(peerKey{}).(*peer)
	if before != nil && (before.unix || before.err != nil) {
		return before.uid, before.err
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || local == nil {
		return 0, errPeer
	}
	uid, err := p.tcpPeer(net.TCPAddrFromAddrPort(remote), local)
	if err == nil && before != nil && before.uid != uid {
		return 0, errPeer
	}
	return uid, err
}

func (p *Principals) tcpPeer(remote, local net.Addr) (int, error) {
	from, okFrom := loopbackAddr(remote)
	to, okTo := loopbackAddr(local)
	if !okFrom || !okTo {
		return 0, errPeer
	}
	if p.lookup != nil {
		return p.lookup(pair{from, to})
	}
	return socketOwner(pair{from, to})
}

// loopbackAddr returns the address without a mapping to IPv6, if it is on this
// machine alone.
func loopbackAddr(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := t.AddrPort()
	ap = netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	return ap, ap.Addr().IsLoopback()
}

// connOf returns the connection that a request came on; nil: it is not known.
func connOf(r *http.Request) net.Conn {
	if found, ok := r.Context().Value(peerKey{}).(*peer); ok {
		return found.conn
	}
	return nil
}

// fromUnix reports whether a request came through a unix socket.
func fromUnix(r *http.Request) bool {
	found, _ := r.Context().Value(peerKey{}).(*peer)
	return found != nil && found.unix
}
