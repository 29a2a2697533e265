package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"pushproxy/oci"
)

const (
	// answerFor is how long a client may take to take the answer to its CONNECT,
	// and another host to be reached.
	answerFor = 15 * time.Second
	// passIdle is how long a tunnel to another host may be silent.
	passIdle = 5 * time.Minute
)

// mayPass refuses to pass anything but the port of HTTPS through.
func (m *Mitm) mayPass(authority string) error {
	_, port, err := splitAuthority(authority)
	if err != nil {
		return err
	}
	if port != tunnelPort {
		return oci.ErrDenied.With("CONNECT %s: only port %s of hosts that are not registries of pushproxy's is passed through", clip(authority), tunnelPort)
	}
	return nil
}

// pass connects the client to another host and copies bytes, unread, until both
// sides have ended or are silent.
func (m *Mitm) pass(ctx context.Context, authority string, client net.Conn) {
	defer client.Close()
	dialing, cancel := context.WithTimeout(ctx, answerFor)
	defer cancel()
	other, err := m.dial(dialing, authority)
	if err != nil {
		m.log.Info("not passed through", "authority", clip(authority), "error", clip(err.Error()))
		var e *oci.Error
		if !errors.As(err, &e) {
			e = oci.ErrUpstream.With("%s could not be reached", clip(authority)).Because(err)
		}
		_ = client.SetWriteDeadline(time.Now().Add(answerFor))
		_ = refusal(e).Write(client)
		return
	}
	defer other.Close()
	if !m.passing.add(client, other) {
		return
	}
	defer m.passing.remove(client)
	if !established(client) {
		return
	}
	var both sync.WaitGroup
	live := &liveness{ends: []net.Conn{client, other}}
	for from, to := range map[net.Conn]net.Conn{client: other, other: client} {
		both.Go(func() {
			if oci.Guarded(func() error { live.copy(to, from); return nil }) != nil {
				_, _ = from.Close(), to.Close()
			}
		})
	}
	both.Wait()
}

// liveness moves the deadline of both ends of a tunnel with every byte that
// passes either way: one direction may be silent for as long as the other talks.
type liveness struct {
	ends []net.Conn

	mu    sync.Mutex
	until time.Time
}

func (l *liveness) touch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.until.Sub(now) > passIdle/2 {
		return
	}
	l.until = now.Add(passIdle)
	for _, c := range l.ends {
		_ = c.SetDeadline(l.until)
	}
}

func (l *liveness) copy(to, from net.Conn) {
	l.touch()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.touch()
			if _, err := to.Write(buffer[:n]); err != nil {
				_ = from.Close()
				return
			}
		}
		switch {
		case err == nil:
		case err == io.EOF:
			if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return
			}
			_ = to.Close()
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && l.alive():
		default:
			_ = to.Close()
			return
		}
	}
}

// alive tells a deadline that moved meanwhile from one that has come.
func (l *liveness) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.until)
}

// passing is the set of open tunnels to other hosts, so that a stop ends them.
type passing struct {
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]net.Conn
}

func (p *passing) add(client, other net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if p.open == nil {
		p.open = map[net.Conn]net.Conn{}
	}
	p.open[client] = other
	return true
}

func (p *passing) remove(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, client)
}

func (p *passing) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for client, other := range p.open {
		_ = client.Close()
		_ = other.Close()
	}
}
