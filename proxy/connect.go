package proxy

import (
	"errors"
	"net/http"

	"pushproxy/oci"
)

// entering finds out who opens a tunnel, by their socket or Proxy-Authorization,
// and returns what they showed. With AuthPassthrough the requests inside say who
// they are, so a tunnel to a registry is open to everybody.
func (p *Principals) entering(r *http.Request, registry bool) (login []string, caller Caller, err error) {
	login = r.Header.Values("Proxy-Authorization")
	if p != nil && p.Auth == AuthPassthrough {
		if !registry && !p.ours(r) {
			return nil, Caller{}, unauthorized("with auth: passthrough only your own processes may pass through to other hosts")
		}
		return nil, Caller{}, nil
	}
	caller, err = p.identify(with(r, login))
	return login, caller, err
}

// with returns the request with another login.
func with(r *http.Request, login []string) *http.Request {
	other := *r
	other.Header = http.Header{"Authorization": login}
	if len(login) == 0 {
		other.Header = http.Header{}
	}
	return &other
}

// whose finds out who sent a request. Inside a tunnel it is who opened it, and
// still may: what clients show there is meant for the registry that they know.
func (g *Registry) whose(r *http.Request) (Caller, error) {
	t, inside := tunnelOf(r.Context())
	if !inside || (g.Principals != nil && g.Principals.Auth == AuthPassthrough) {
		return g.Principals.identify(r)
	}
	caller, err := g.Principals.identify(with(r, t.login))
	if errors.Is(err, errLogin) {
		// No challenge: clients would answer it with the registry's password.
		return Caller{}, oci.ErrDenied.With("the login that this tunnel was opened with is not valid any more; open another one")
	}
	return caller, err
}

// unknownCaller is the answer to a CONNECT of somebody who has to log in.
func unknownCaller(err error) *http.Response {
	e := *oci.AsError(err)
	if e.Status == http.StatusUnauthorized {
		e.Status = http.StatusProxyAuthRequired
	}
	resp := refusal(&e)
	if e.Status == http.StatusProxyAuthRequired {
		resp.Header.Set("Proxy-Authenticate", `Basic realm="pushproxy"`)
	}
	return resp
}
