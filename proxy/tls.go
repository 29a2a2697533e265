package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"pushproxy/oci"
)

// sniffFor is how long a connection may be silent before its first byte.
const sniffFor = 10 * time.Second

// recordHandshake is the first byte of TLS; no HTTP request begins with it.
const recordHandshake = 0x16

// ConnContext is http.Server.ConnContext for servers of the registry door: it
// tells requests inside a tunnel from others.
func ConnContext(ctx context.Context, c net.Conn) context.Context { return withTunnel(ctx, c) }

// serverConfig is how every TLS server here is set up, but for which HTTP it
// would rather speak.
func serverConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: certificate,
		// A session of one tunnel is none in another.
		SessionTicketsDisabled: true,
	}
}

// LocalNames are what the registry door is called in its certificate; CA.Cover
// must have been asked for the first.
func LocalNames() []string { return []string{"localhost", "127.0.0.1", "::1"} }

// WithTLS returns a listener that speaks TLS, with a certificate of the CA for
// LocalNames, to clients that begin so, and passes the others through in the
// clear: one port serves http and https.
func WithTLS(l net.Listener, ca *CA) net.Listener {
	s := &sniffer{connQueue: newConnQueue(l.Addr()), inner: l, config: serverConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return ca.Leaf(LocalNames()...)
	})}
	// Between two processes of one machine, HTTP/2's frames and windows are work for
	// both and save nothing. Who speaks nothing else gets it.
	s.config.NextProtos = []string{"http/1.1", "h2"}
	go s.run()
	return s
}

// sniffer sorts the connections of a listener by their first byte.
type sniffer struct {
	*connQueue
	inner  net.Listener
	config *tls.Config
}

// Close ends the inner listener as well.
func (s *sniffer) Close() error {
	_ = s.connQueue.Close()
	return s.inner.Close()
}

func (s *sniffer) run() {
	pause := time.Duration(0)
	for {
		c, err := s.inner.Accept()
		select {
		case <-s.done:
			if err == nil {
				_ = c.Close()
			}
			return
		default:
		}
		if err != nil {
			// Such as too many open files: it passes, as in net/http.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-s.done:
			}
			continue
		}
		pause = 0
		go s.sort(c)
	}
}

func (s *sniffer) sort(c net.Conn) {
	err := oci.Guarded(func() error { return s.first(c) })
	if err != nil {
		_ = c.Close()
	}
}

// first looks at the first byte of a connection and passes it on.
func (s *sniffer) first(c net.Conn) error {
	p := &peeked{Conn: c}
	_ = c.SetReadDeadline(time.Now().Add(sniffFor))
	if n, err := c.Read(p.first[:]); n == 0 || err != nil {
		return errBroken
	}
	_ = c.SetReadDeadline(time.Time{})
	if p.first[0] == recordHandshake {
		s.push(tls.Server(p, s.config))
		return nil
	}
	s.push(p)
	return nil
}

// peeked gives back the byte that was looked at.
type peeked struct {
	net.Conn
	first [1]byte
	given bool
}

// Read returns the first byte once, and then what follows.
func (p *peeked) Read(b []byte) (int, error) {
	if p.given || len(b) == 0 {
		return p.Conn.Read(b)
	}
	p.given = true
	return copy(b, p.first[:]), nil
}
