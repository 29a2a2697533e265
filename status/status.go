package status

import (
	"context"
	"net/http"
	"time"

	"pushproxy/forward"
)

// Server answers on the status listener: the page, the JSON and the stream. It
// protects nothing itself: whoever serves it checks where a request comes from
// and says who asks (WithViewer). The exported fields are set before the first
// request.
type Server struct {
	Version  string // of the program
	Instance string // another after each start
	Started  time.Time
	// Tracker knows the pushes; nil: there are none.
	Tracker *Tracker
	// Upstreams returns the upstreams of a principal, with what is known of them
	// without asking anybody; nil: only those are told of that were pushed to.
	Upstreams func(ctx context.Context, principal string) []Known
	// Owner is the principal whose credentials are shown to who sees everything.
	Owner string
	// Usage returns how much there is in the store; nil: nothing is told of it.
	Usage func(ctx context.Context) (Store, error)
	// Collect collects the store's garbage and returns what to say of it; nil: it
	// cannot be asked for.
	Collect func(ctx context.Context) (any, error)
	// Queue carries out what is asked about jobs; nil: there is none.
	Queue *forward.Queue
	// Metrics answers GET /metrics, to callers who see everything; nil: there is
	// no such path.
	Metrics http.Handler

	facts facts
}

// Known is an upstream as a principal reaches it.
type Known struct {
	Host   string
	Quirks []string // known and learned
}

// Viewer is who looks.
type Viewer struct {
	Principal string
	All       bool // sees everybody's pushes and jobs
}

// sees reports whether what is a principal's is shown.
func (v Viewer) sees(principal string) bool {
	return v.All || principal != "" && principal == v.Principal
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
	s.api(mux)
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
