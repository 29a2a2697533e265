// Package proxy holds the doors that clients knock on. The registry door speaks
// the distribution API: it takes bytes into the cache, sees to it that the
// upstream holds them before it says so, and answers reads with what the
// upstream has.
//
// A request passes, in this order: the guard (which host, from where), the
// principals (who calls), the parser (oci.Parse), the route (which upstream and
// repository), the permission (authorize) and the handler of its kind, which
// returns an error or has answered. Nothing that a client sends chooses an upstream that is not
// configured or logged in to.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
)

// Registry is the registry door, an http.Handler for all of /v2/. Every field
// must be set before the first request.
type Registry struct {
	Routes *Routes
	Guard  *Guard
	// Principals finds out who calls; nil refuses everybody.
	Principals *Principals
	// Target returns the upstream of a host as the principal reaches it.
	Target  func(ctx context.Context, principal, host string) (*forward.Target, error)
	Cache   *blobcache.Cache
	Meta    *metadata.DB
	Forward *forward.Forwarder
	Log     *slog.Logger
	// Audit records pushes, deletions and refusals; nil records nothing.
	Audit *Audit
	// Metrics counts; nil counts nothing.
	Metrics *Metrics
	// Limits keep principals from each other's share of this machine; nil: none.
	Limits *Limits
	// Queue takes the pushes whose clients do not wait. Nil: all wait.
	Queue *forward.Queue
	// Async reports whether clients do not wait for pushes to a repository,
	// unless they say otherwise. Nil: they do.
	Async func(repo oci.Repo) bool
	// Traced reports whether the spans of a principal's clients are taken up. Nil:
	// nobody's are.
	Traced func(principal string) bool

	fetches singleflight.Group // pulls that only fill the cache
}

// call is one request on its way through a handler.
type call struct {
	oci.Request
	r         *http.Request
	w         http.ResponseWriter
	caller    Caller
	principal string   // the caller's
	repo      oci.Repo // where it goes upstream
	target    *forward.Target
	seen      func(received int64) // told how much of the body has come, or nil
	charge    func(n int) error    // asked whether n more bytes fit, or nil
	push      string               // id of the push that a manifest has become
}

// Context ends when the client goes away.
func (c *call) Context() context.Context { return c.r.Context() }

// lasting outlives the client: what was received, or done upstream, is put in
// order even when nobody waits for the answer.
func (c *call) lasting() context.Context { return context.WithoutCancel(c.r.Context()) }

// location returns a path below the repository as this client reaches it: plain
// ASCII from the root, since clients differ in how they read other locations,
// and with the registry where the client named that beside the name.
func (c *call) location(path string) string {
	location := "/v2/" + c.Name + path
	if c.Namespace != "" {
		location += "?ns=" + url.QueryEscape(c.Namespace)
	}
	return location
}

// handlers is the one table of what answers which kind.
var handlers = map[oci.Kind]func(*Registry, *call) error{
	oci.KindPing:           (*Registry).ping,
	oci.KindBlobHead:       (*Registry).headBlob,
	oci.KindBlobGet:        (*Registry).getBlob,
	oci.KindBlobDelete:     (*Registry).deleteBlob,
	oci.KindMount:          (*Registry).mount,
	oci.KindUploadStart:    (*Registry).startUpload,
	oci.KindUploadWhole:    (*Registry).uploadWhole,
	oci.KindUploadStatus:   resumed((*Registry).uploadStatus),
	oci.KindUploadChunk:    resumed((*Registry).uploadChunk),
	oci.KindUploadFinish:   (*Registry).finishUpload,
	oci.KindUploadCancel:   resumed((*Registry).cancelUpload),
	oci.KindManifestHead:   (*Registry).headManifest,
	oci.KindManifestGet:    (*Registry).getManifest,
	oci.KindManifestPut:    (*Registry).putManifest,
	oci.KindManifestDelete: (*Registry).deleteManifest,
	oci.KindTags:           (*Registry).tags,
	oci.KindReferrers:      (*Registry).referrers,
}

// unsure is what a look that failed is answered with, for whatever reason it
// did. Clients give a push up at every status but 200 and 404, and a HEAD has no
// body to say why; the write that follows the 404 has one.
var unsure = map[oci.Kind]*oci.Error{
	oci.KindBlobHead:     oci.ErrBlobUnknown,
	oci.KindManifestHead: oci.ErrManifestUnknown,
}

// ServeHTTP answers one request.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	a := newAnswer(w, r)
	h := a.Header()
	h.Set("Server", ServerName)
	h.Set("Docker-Distribution-API-Version", "registry/2.0")
	// What is served here was pushed by somebody: a browser must not run it.
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	defer g.Metrics.begin(a, r)()
	defer g.recover(a, r)
	if err := g.serve(a, r); err != nil {
		g.fail(a, r, err)
	}
	g.Log.Debug("request", "method", clip(r.Method), "path", clip(r.URL.Path), "status", a.status, "took", time.Since(began).Round(time.Microsecond))
}

func (g *Registry) serve(a *answer, r *http.Request) error {
	if err := g.Guard.check(r); err != nil {
		return err
	}
	caller, err := g.whose(r)
	if err != nil {
		return err
	}
	a.caller = caller
	if err := g.Limits.connected(r, caller.Principal); err != nil {
		a.Header().Set("Connection", "close")
		return err
	}
	leave, err := g.Limits.enter(caller.Principal)
	if err != nil {
		return err
	}
	defer leave()
	request, err := oci.Parse(r.Method, r.URL)
	if err != nil {
		return err
	}
	a.kind = request.Kind
	r = r.WithContext(context.WithValue(r.Context(), callerKey{}, &caller))
	c := &call{Request: request, r: r, w: a, caller: caller, principal: caller.Principal}
	if request.Kind != oci.KindPing {
		err = g.route(c)
	}
	if err == nil {
		// Said as it is, also to those who only look.
		if denied := authorize(caller, request.Kind, c.repo); denied != nil {
			return denied
		}
		err = g.answer(c)
		a.push = c.push
	}
	if unknown := unsure[request.Kind]; unknown != nil && err != nil && !errors.Is(err, unknown) {
		return unknown.Because(shown(err))
	}
	return err
}

// answer does what an allowed call asks for.
func (g *Registry) answer(c *call) (err error) {
	if c.Kind != oci.KindPing {
		if c.target, err = g.Target(c.Context(), c.principal, c.repo.Host); err != nil {
			return err
		}
	}
	return handlers[c.Kind](g, c)
}

// route finds the upstream and repository of a call.
func (g *Registry) route(c *call) (err error) {
	// A client that was told to reach this door by another name sends the name
	// that it knows; it says nothing about the upstream. In a tunnel nothing does
	// but the tunnel.
	if _, ok := tunnelOf(c.Context()); ok || g.Guard.Hosts[strings.ToLower(c.Namespace)] {
		c.Namespace = ""
	}
	if c.repo, err = g.repository(c, c.Name); err != nil {
		return err
	}
	if c.Namespace != "" {
		c.w.Header().Set("OCI-Namespace", c.Namespace)
	}
	return nil
}

func (g *Registry) ping(c *call) error { return c.json("application/json", []byte("{}")) }
