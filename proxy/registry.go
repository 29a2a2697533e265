// Package proxy holds the doors that clients knock on. The registry door speaks
// the distribution API: it takes bytes into the cache, sees to it that the
// upstream holds them before it says so, and answers reads with what the
// upstream has.
//
// A request passes, in this order: the guard (which host, from where), the
// parser (oci.Parse), the principal (who calls), the route (which upstream and
// repository) and the handler of its kind, which returns an error or has
// answered. Nothing that a client sends chooses an upstream that is not
// configured or logged in to.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
)

// Registry is the registry door, an http.Handler for all of /v2/. Every field
// but Log must be set.
type Registry struct {
	Routes *Routes
	Guard  *Guard
	// Target returns the upstream of a host as the principal reaches it.
	Target  func(ctx context.Context, principal, host string) (*forward.Target, error)
	Cache   *blobcache.Cache
	Meta    *metadata.DB
	Forward *forward.Forwarder
	Log     *slog.Logger
}

// call is one request on its way through a handler.
type call struct {
	oci.Request
	r         *http.Request
	w         http.ResponseWriter
	principal string
	repo      oci.Repo // where it goes upstream
	target    *forward.Target
}

// Context ends when the client goes away.
func (c *call) Context() context.Context { return c.r.Context() }

// lasting outlives the client: what was received is put in order even when
// nobody waits for the answer.
func (c *call) lasting() context.Context { return context.WithoutCancel(c.r.Context()) }

// handlers is the one table of what answers which kind.
var handlers = map[oci.Kind]func(*Registry, *call) error{
	oci.KindPing:           (*Registry).ping,
	oci.KindBlobHead:       (*Registry).headBlob,
	oci.KindBlobGet:        (*Registry).getBlob,
	oci.KindBlobDelete:     (*Registry).deleteBlob,
	oci.KindMount:          (*Registry).mount,
	oci.KindUploadStart:    (*Registry).startUpload,
	oci.KindUploadWhole:    (*Registry).uploadWhole,
	oci.KindUploadStatus:   (*Registry).uploadStatus,
	oci.KindUploadChunk:    (*Registry).uploadChunk,
	oci.KindUploadFinish:   (*Registry).finishUpload,
	oci.KindUploadCancel:   (*Registry).cancelUpload,
	oci.KindManifestHead:   (*Registry).headManifest,
	oci.KindManifestGet:    (*Registry).getManifest,
	oci.KindManifestPut:    (*Registry).putManifest,
	oci.KindManifestDelete: (*Registry).deleteManifest,
	oci.KindTags:           (*Registry).tags,
	oci.KindReferrers:      (*Registry).referrers,
}

// ServeHTTP answers one request.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	a := &answer{ResponseWriter: w}
	h := a.Header()
	h.Set("Server", ServerName)
	h.Set("Docker-Distribution-API-Version", "registry/2.0")
	// What is served here was pushed by somebody: a browser must not run it.
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	defer g.recover(a, r)
	err := g.serve(a, r)
	if err != nil {
		g.fail(a, r, err)
	}
	g.Log.Debug("request", "method", r.Method, "path", clip(r.URL.Path), "status", a.status, "took", time.Since(began).Round(time.Microsecond))
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	if err := g.Guard.check(r); err != nil {
		return err
	}
	request, err := oci.Parse(r.Method, r.URL)
	if err != nil {
		return err
	}
	c := &call{Request: request, r: r, w: w, principal: principal(r)}
	if request.Kind != oci.KindPing {
		if c.repo, err = g.Routes.Route(r.Context(), request.Namespace, request.Name); err != nil {
			return err
		}
		if c.target, err = g.Target(r.Context(), c.principal, c.repo.Host); err != nil {
			return err
		}
	}
	return handlers[request.Kind](g, c)
}

// fail answers with err, unless the answer has begun: then the connection is cut
// so that the client cannot take half a body for a whole one.
func (g *Registry) fail(a *answer, r *http.Request, err error) {
	e := oci.AsError(err)
	level := slog.LevelInfo
	switch {
	case errors.Is(err, context.Canceled):
		level = slog.LevelDebug
	case e.Status >= 500:
		level = slog.LevelWarn
	case e.Status == http.StatusNotFound && (r.Method == http.MethodHead || r.Method == http.MethodGet):
		level = slog.LevelDebug
	}
	g.Log.Log(r.Context(), level, "refused", "method", r.Method, "path", clip(r.URL.Path), "status", e.Status, "code", e.Code, "error", clip(err.Error()))
	if a.status != 0 {
		panic(http.ErrAbortHandler)
	}
	oci.Write(a, err)
}

// recover keeps a panic in one request from ending the others. Values are not
// logged: they could hold anything.
func (g *Registry) recover(a *answer, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	g.Log.Error("panic in a handler", "method", r.Method, "path", clip(r.URL.Path), "stack", string(debug.Stack()))
	if a.status != 0 {
		panic(http.ErrAbortHandler)
	}
	oci.Write(a, oci.ErrInternal)
}

func (g *Registry) ping(c *call) error {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Content-Length", "2")
	c.w.WriteHeader(http.StatusOK)
	_, err := c.w.Write([]byte("{}"))
	return err
}

// answer remembers whether a response has begun.
type answer struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (a *answer) WriteHeader(status int) {
	if status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write notes an implicit 200.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// clip bounds text from clients before it is logged; the logger quotes it.
func clip(s string) string {
	if len(s) > 512 {
		return s[:512] + "…"
	}
	return s
}
