package proxy

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"pushproxy/oci"
)

// ServerName is the Server header of every answer.
const ServerName = "pushproxy"

// HopHeader marks requests that a pushproxy sends upstream, so that one that is
// its own upstream notices at the first hop.
const HopHeader = "Pushproxy-Hop"

// Guard refuses requests that no registry client sends: for a host name that is
// not ours (DNS rebinding), from a page in a browser (cross-site requests need
// no preflight to push), or from this program itself. It looks at nothing else
// and runs before everything else.
type Guard struct {
	// Hosts are the accepted values of the Host header, with port, in lower case.
	Hosts map[string]bool
}

// NewGuard returns a guard for listeners at the addresses, host:port. Each is
// accepted as it is written, a loopback address also as localhost, 127.0.0.1 and
// [::1] with its port, and an unspecified one only as these.
func NewGuard(addresses []string) (*Guard, error) {
	g := &Guard{Hosts: map[string]bool{}}
	for _, address := range addresses {
		if strings.HasPrefix(address, "/") {
			// A unix socket, which no browser reaches; requests there say localhost.
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		names := []string{host}
		ip := net.ParseIP(host)
		if ip.IsUnspecified() || host == "" {
			names = nil
		}
		if names == nil || host == "localhost" || ip.IsLoopback() {
			names = append(names, "localhost", "127.0.0.1", "::1")
		}
		for _, name := range names {
			g.Hosts[strings.ToLower(net.JoinHostPort(name, port))] = true
			if port == "80" {
				g.Hosts[strings.ToLower(strings.TrimSuffix(net.JoinHostPort(name, port), ":80"))] = true
			}
		}
	}
	return g, nil
}

// host refuses requests for another host than the listener's own, or than the
// tunnel's that they came through.
func (g *Guard) host(r *http.Request) error {
	if t, ok := tunnelOf(r.Context()); ok {
		return t.check(r)
	}
	if r.URL.Host != "" || r.URL.User != nil {
		return oci.ErrMisdirected.With("this is a registry and takes no requests for a forward proxy; remove it from the client's proxy settings")
	}
	if !g.Hosts[strings.ToLower(r.Host)] && !(fromUnix(r) && strings.EqualFold(r.Host, "localhost")) {
		return oci.ErrMisdirected.With("the host name %s is not served here; use localhost and the port that pushproxy listens on", clip(r.Host))
	}
	return nil
}

func (g *Guard) check(r *http.Request) error {
	if err := g.host(r); err != nil {
		return err
	}
	foreign := func(site string) bool { return site != "none" && site != "same-origin" }
	if len(r.Header.Values("Origin")) > 0 || slices.ContainsFunc(r.Header.Values("Sec-Fetch-Site"), foreign) {
		return oci.ErrDenied.With("requests from web pages are refused; use a registry client")
	}
	if len(r.Header.Values(HopHeader)) > 0 {
		e := *oci.ErrDenied.With("this request came from pushproxy itself: an upstream in the configuration points back here; correct its url")
		e.Status = http.StatusLoopDetected
		return &e
	}
	return nil
}
