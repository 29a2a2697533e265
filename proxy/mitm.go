package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/elazarl/goproxy"

	"pushproxy/oci"
)

// Mitm is the forward-proxy door: an http.Handler for the listener that
// clients' HTTPS_PROXY names. It takes CONNECT and nothing else. For a registry
// that Routes allows, the connection is served by our own server with a
// certificate for exactly that host, and its requests end in the registry door;
// goproxy (its own interception is not used, trust.md section 5) only routes the
// CONNECT. Other hosts are refused, or passed through untouched.
type Mitm struct {
	routes  *Routes
	ca      *CA
	dial    func(ctx context.Context, authority string) (net.Conn, error)
	log     *slog.Logger
	proxy   *goproxy.ProxyHttpServer
	config  *tls.Config
	tunnels *connQueue
	passing passing
	callers *Principals
	audit   *Audit
}

// MitmOptions makes a Mitm. Routes, CA and Log must be set.
type MitmOptions struct {
	Routes *Routes
	CA     *CA
	Log    *slog.Logger
	// Principals finds out who may open tunnels; nil lets nobody.
	Principals *Principals
	// Audit records refusals; nil records nothing.
	Audit *Audit
	// Dial reaches hosts that are not registries of ours, at port 443 only; nil
	// refuses them.
	Dial func(ctx context.Context, authority string) (net.Conn, error)
}

// NewMitm returns the door. Its Tunnels must be served, by an http.Server whose
// handler is the registry door and whose ConnContext is this package's.
func NewMitm(o MitmOptions) *Mitm {
	m := &Mitm{routes: o.Routes, ca: o.CA, dial: o.Dial, log: o.Log, tunnels: newConnQueue(nil), callers: o.Principals, audit: o.Audit}
	m.config = serverConfig(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		// The tunnel's host alone: what the handshake names is compared later.
		return m.ca.Leaf(hello.Conn.(*tunnelConn).tunnel.host)
	})
	m.proxy = goproxy.NewProxyHttpServer()
	// Nothing of goproxy's may reach the network: a path that was missed fails.
	m.proxy.Tr = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errNoDial }}
	m.proxy.ConnectDial = func(string, string) (net.Conn, error) { return nil, errNoDial }
	m.proxy.NonproxyHandler = http.HandlerFunc(onlyConnect)
	m.proxy.Logger = slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
	m.proxy.OnRequest().HandleConnectFunc(m.connect)
	return m
}

var errNoDial = errors.New("goproxy dials nothing here")

// Tunnels is where the connections inside of tunnels come out, as TLS servers.
func (m *Mitm) Tunnels() net.Listener { return tls.NewListener(m.tunnels, m.config) }

// Close ends the tunnels to other hosts. Those to registries end with the
// server of Tunnels.
func (m *Mitm) Close() { m.passing.close() }

// ServeHTTP answers one request to the door's own listener.
func (m *Mitm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		// Never forwarded, whatever it names (trust.md G4).
		onlyConnect(w, r)
		return
	}
	m.proxy.ServeHTTP(w, r)
}

func onlyConnect(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Server", ServerName)
	oci.Write(w, oci.ErrDenied.With("this is pushproxy's forward-proxy door, for HTTPS_PROXY: it takes CONNECT to registries and nothing else"))
}

// connect decides about one CONNECT. It never returns nil, since goproxy would
// then connect to anywhere.
func (m *Mitm) connect(authority string, ctx *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
	login, caller, err := m.callers.entering(ctx.Req, m.dial == nil)
	if err != nil {
		m.audit.refusal(caller, ctx.Req, err)
		ctx.Resp = unknownCaller(err)
		return &goproxy.ConnectAction{Action: goproxy.ConnectReject}, authority
	}
	about := context.WithValue(ctx.Req.Context(), callerKey{}, &caller)
	t, err := m.routes.tunnel(about, authority)
	t.login = login
	if err == nil {
		if err = m.cover(t.host); err == nil {
			return hijack(func(_ *http.Request, c net.Conn, _ *goproxy.ProxyCtx) { m.intercept(t, c) }), authority
		}
	}
	if m.dial != nil && errors.Is(err, oci.ErrNameUnknown) {
		if err = m.mayPass(authority); err == nil {
			return hijack(func(r *http.Request, c net.Conn, _ *goproxy.ProxyCtx) { m.pass(r.Context(), authority, c) }), authority
		}
	}
	e := oci.AsError(err)
	if errors.Is(err, oci.ErrNameUnknown) {
		e = oci.ErrNameUnknown.With("%s is not a registry that pushproxy knows: docker login %s, or set forward_proxy.tunnel_others to let other hosts pass through", clip(authority), hostOf(authority)).Because(err)
	}
	m.log.Info("refused", "method", "CONNECT", "authority", clip(authority), "status", e.Status, "error", clip(err.Error()))
	ctx.Resp = refusal(e)
	return &goproxy.ConnectAction{Action: goproxy.ConnectReject}, authority
}

// hostOf is what to log in to for an authority that splitAuthority took.
func hostOf(authority string) string {
	host, port, _ := splitAuthority(authority)
	if port != tunnelPort {
		return net.JoinHostPort(host, port)
	}
	return host
}

func hijack(f func(*http.Request, net.Conn, *goproxy.ProxyCtx)) *goproxy.ConnectAction {
	return &goproxy.ConnectAction{Action: goproxy.ConnectHijack, Hijack: f}
}

// cover lets the CA grow to a registry that the user logged in to after it was
// made.
func (m *Mitm) cover(host string) error {
	added, err := m.ca.Cover(host)
	if err != nil {
		return err
	}
	if len(added) > 0 {
		m.log.Info("the CA covers a further registry; clients that keep a copy of it need their set-up applied again (pushproxy setup CLIENT --apply)", "registry", host)
	}
	return nil
}

// intercept answers the CONNECT and hands the connection to our server.
func (m *Mitm) intercept(t tunnel, c net.Conn) {
	if !established(c) {
		return
	}
	m.tunnels.push(&tunnelConn{Conn: c, tunnel: t})
}

// established tells the client that its tunnel is open.
func established(c net.Conn) bool {
	_ = c.SetWriteDeadline(time.Now().Add(answerFor))
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = c.Close()
		return false
	}
	_ = c.SetWriteDeadline(time.Time{})
	return true
}

// refusal is the answer to a CONNECT that is not granted. Clients show the text
// of the status line and nothing else, so the reason is there as well.
func refusal(e *oci.Error) *http.Response {
	w := &recorded{header: http.Header{"Server": {ServerName}}}
	oci.Write(w, e)
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status) + ": " + oneLine(e.Message), ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()),
	}
}

// oneLine keeps what may stand in a status line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
}

// recorded keeps an answer.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header returns the header that Write goes with.
func (w *recorded) Header() http.Header { return w.header }

// WriteHeader keeps the status.
func (w *recorded) WriteHeader(status int) { w.status = status }

// Write keeps the body.
func (w *recorded) Write(p []byte) (int, error) { return w.body.Write(p) }
