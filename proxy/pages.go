package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"pushproxy/oci"
)

// pagePolicy is what a browser may do with what Pages serves.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// Pages is a door for people and their browsers: a handler behind the same
// guard and the same ways to tell who calls as the registry door. CallerFrom
// tells the handler who it is. Requests that come from other web sites are
// refused, those that only look as well; so are those for a host name that is
// not the door's own.
type Pages struct {
	Guard      *Guard
	Principals *Principals
	Handler    http.Handler
	// Open are the paths that whoever reaches the door may ask for.
	Open  map[string]bool
	Audit *Audit
	Log   *slog.Logger
}

// ServeHTTP implements http.Handler.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Server", ServerName)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	defer p.recover(r)
	if r.Body != nil && r.Body != http.NoBody {
		// Nothing here needs one; the server reads what is left of it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(leftFor))
	}
	caller, err := p.admit(r)
	if err != nil {
		p.Audit.refusal(caller, r, err)
		e := oci.AsError(err)
		p.Log.Log(r.Context(), level(r, e), "refused", "method", clip(r.Method), "path", clip(r.URL.Path), "status", e.Status, "error", clip(err.Error()))
		if e.Status == http.StatusUnauthorized {
			h.Set("WWW-Authenticate", `Basic realm="pushproxy"`)
		}
		oci.Write(w, e)
		return
	}
	p.Handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, &caller)))
}

// admit returns who sent the request, or why it is refused.
func (p *Pages) admit(r *http.Request) (Caller, error) {
	if err := p.Guard.page(r); err != nil {
		return Caller{}, err
	}
	if p.Open[r.URL.Path] && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return Caller{}, nil
	}
	return p.Principals.identify(r)
}

func (p *Pages) recover(r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		p.Log.Error("panic in a page", "method", clip(r.Method), "path", clip(r.URL.Path), "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// page refuses requests for another host than the door's own, and those that
// another web site's page makes.
func (g *Guard) page(r *http.Request) error {
	if err := g.host(r); err != nil {
		return err
	}
	foreign := oci.ErrDenied.With("requests from other web sites are refused; open http://%s itself", clip(r.Host))
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "none" && site != "same-origin" {
			return foreign
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		if origin != "http://"+r.Host {
			return foreign
		}
	}
	// The two above, as the standard library has it.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return foreign.Because(err)
	}
	return nil
}
