package proxy

import (
	"net"
	"net/http"
	"time"

	"pushproxy/oci"
)

// connected counts the request's connection as the principal's, if it may have
// one more.
func (l *Limits) connected(r *http.Request, principal string) error {
	conn := connOf(r)
	if l == nil || l.Connections == 0 || conn == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	before, known := l.conns[conn]
	if known && before == principal {
		return nil
	}
	if u := l.of(principal); u.conns >= l.Connections {
		defer l.tidy(principal)
		e := *oci.ErrTooManyRequests.With("%d connections of yours are open already; close some of them", u.conns)
		e.After = time.Second
		return &e
	}
	if known {
		l.parted(conn)
	}
	l.conns[conn] = principal
	l.of(principal).conns++
	if r.Context().Err() != nil {
		// It is gone, and so may be the word of it: with HTTP/2 a request may begin
		// after its connection has ended.
		l.parted(conn)
	}
	return nil
}

// parted forgets whose a connection is; it needs mu.
func (l *Limits) parted(conn net.Conn) {
	principal, known := l.conns[conn]
	if !known {
		return
	}
	delete(l.conns, conn)
	l.of(principal).conns--
	l.tidy(principal)
}

// ConnState is an http.Server's: it is told of connections that end.
func (l *Limits) ConnState(conn net.Conn, state http.ConnState) {
	if l == nil || state != http.StateClosed && state != http.StateHijacked {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.parted(conn)
}
