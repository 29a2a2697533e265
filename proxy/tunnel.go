package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"pushproxy/oci"
)

// tunnelPort is the port that the names of registries mean.
const tunnelPort = "443"

type tunnelKey struct{}

// tunnel is what a CONNECT asked for: the one host that requests inside may
// name, and the upstream behind it.
type tunnel struct {
	host     string // without its port, in lower case
	port     string
	upstream string   // canonical host of the upstream
	login    []string // Proxy-Authorization of the CONNECT
}

// tunnelConn is a connection within a tunnel.
type tunnelConn struct {
	net.Conn
	tunnel tunnel
}

// withTunnel is http.Server.ConnContext for servers of tunnels: requests of the
// connection belong to its tunnel.
func withTunnel(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*tunnelConn); ok {
		return context.WithValue(ctx, tunnelKey{}, c.tunnel)
	}
	return ctx
}

func tunnelOf(ctx context.Context) (tunnel, bool) {
	t, ok := ctx.Value(tunnelKey{}).(tunnel)
	return t, ok
}

// check refuses a request inside the tunnel that is not for the tunnel's own
// authority, by its Host or by the name of the TLS handshake. An absolute URI is
// refused whatever it names: no registry client sends one here.
func (t tunnel) check(r *http.Request) error {
	host := strings.ToLower(r.Host)
	if t.port == tunnelPort && host == bracketed(t.host) {
		host = net.JoinHostPort(t.host, tunnelPort)
	}
	named := ""
	if r.TLS != nil {
		named = strings.ToLower(r.TLS.ServerName)
	}
	// Clients name no address in the handshake (RFC 6066, section 3).
	sure := named == t.host || (named == "" && net.ParseIP(t.host) != nil)
	if r.TLS == nil || !sure || r.URL.Host != "" || r.URL.User != nil || host != net.JoinHostPort(t.host, t.port) {
		return oci.ErrMisdirected.With("this tunnel leads to %s; requests in it for another host are refused", net.JoinHostPort(t.host, t.port))
	}
	return nil
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// splitAuthority takes the authority of a CONNECT apart, strictly: a name in
// letters, digits, dots and dashes, or an IP address, and a port. One trailing
// dot is dropped. Everything else is ErrNameInvalid.
func splitAuthority(authority string) (host, port string, err error) {
	bad := oci.ErrNameInvalid.With("CONNECT %s: that is not host:port", clip(authority))
	host, port, splitErr := net.SplitHostPort(authority)
	if n, err := strconv.ParseUint(port, 10, 16); splitErr != nil || err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", "", bad
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip := net.ParseIP(host); ip != nil {
		return ip.String(), port, nil
	}
	valid := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' }
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return "", "", bad
		}
	}
	if len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool { return !valid(r) }) {
		return "", "", bad
	}
	return host, port, nil
}

// tunnel returns the upstream of a CONNECT's authority. When there is none the
// error is oci.ErrNameUnknown, as for a repository.
func (s *Routes) tunnel(ctx context.Context, authority string) (tunnel, error) {
	host, port, err := splitAuthority(authority)
	if err != nil {
		return tunnel{}, err
	}
	name := host
	if port != tunnelPort {
		name = net.JoinHostPort(host, port)
	}
	// Any repository will do to find the upstream.
	repo, err := s.byHost(ctx, name, "any/repository")
	if err != nil {
		return tunnel{}, err
	}
	return tunnel{host: host, port: port, upstream: repo.Host}, nil
}

// repository returns the upstream's repository for a name in a call: by the
// tunnel that the call came through, else by what it names.
func (g *Registry) repository(c *call, name string) (oci.Repo, error) {
	if t, ok := tunnelOf(c.Context()); ok {
		// The client wrote the registry's own name for it: no prefix comes before it.
		return Upstream{Host: t.upstream}.repo(name)
	}
	return g.Routes.Route(c.Context(), c.Namespace, name)
}

// connQueue is a listener whose connections are handed to it.
type connQueue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// push hands over a connection, or closes it when nobody listens any more.
func (q *connQueue) push(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		_ = c.Close()
	}
}

// Accept returns the next connection.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr is the address that clients connected to.
func (q *connQueue) Addr() net.Addr { return q.addr }
