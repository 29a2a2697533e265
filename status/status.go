package status

import (
	"context"
	"net/http"
	"time"
)

// Server answers on the status listener: the page, the JSON and the stream. It
// protects nothing itself: whoever serves it checks where a request comes from
// and says who asks (WithViewer). The exported fields are set before the first
// request.
type Server struct {
	Version  string // of the program
	Instance string // another after each start
	Started  time.Time
	// Metrics answers GET /metrics, to callers who see everything; nil: there is
	// no such path.
	Metrics http.Handler
}

// Viewer is who looks.
type Viewer struct {
	Principal string
	All       bool // sees everybody's pushes and jobs
}

type viewerKey struct{}

// WithViewer says who sent the request that ctx belongs to.
func WithViewer(ctx context.Context, v Viewer) context.Context {
	return context.WithValue(ctx, viewerKey{}, v)
}

// viewerOf returns who sent a request; one that nobody vouched for sees nothing.
func viewerOf(r *http.Request) Viewer {
	v, _ := r.Context().Value(viewerKey{}).(Viewer)
	return v
}

// Query selects finished pushes.
type Query struct {
	Text   string // part of a repository, tag or digest; empty: any
	State  string // one of State; empty: any
	Before string // id of a push; those that finished before it
	Limit  int    // at most so many; 0: 50
}

// Handler returns the handler of all paths.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /push/{id}", s.pushPage)
	mux.Handle("GET /assets/", s.assets())
	if s.Metrics != nil {
		mux.HandleFunc("GET /metrics", s.metrics)
	}
	return mux
}

// metrics answers to who sees everything: numbers of all principals are in it.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if !viewerOf(r).All {
		http.Error(w, "metrics are for the owner of this pushproxy: ask as that user, on this machine or by its unix socket", http.StatusForbidden)
		return
	}
	s.Metrics.ServeHTTP(w, r)
}

// snapshot returns everything as the viewer may see it.
func (s *Server) snapshot(Viewer) Snapshot {
	return Snapshot{
		Version: Version, Pushproxy: s.Version, Instance: s.Instance, Started: s.Started, Now: time.Now(),
		Pushes: []Push{}, Finished: []Push{}, Queue: []Job{}, Upstreams: []Upstream{},
	}
}

// push returns a push with its steps, if there is one that the viewer may see.
func (s *Server) push(Viewer, string) (Push, bool) { return Push{}, false }

// finished returns finished pushes, newest first, and what to put into
// Query.Before for those that follow; empty at the end.
func (s *Server) finished(Viewer, Query) (pushes []Push, next string) { return []Push{}, "" }
