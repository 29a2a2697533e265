package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// recorder stands before a real upstream and writes down every request: that list is what pushproxy is held to.
// A rule may answer in the upstream's place, hold a request back, or cut its connection.
type recorder struct {
	URL string

	mu   sync.Mutex
	list []*seen
	rule func(w http.ResponseWriter, r *http.Request) (answered bool)
}

// seen is one request as the upstream saw it.
type seen struct {
	Method, Path, Query string
	User                string // of Basic credentials
	Authorized          bool   // had any Authorization header
	Status              int
	Body                int64 // bytes received
}

func (s seen) String() string {
	line := s.Method + " " + s.Path
	if s.Query != "" {
		line += "?" + s.Query
	}
	return fmt.Sprintf("%s → %d (%d bytes)", line, s.Status, s.Body)
}

// startRecorder puts a recorder before upstream, an http or https URL, the latter trusted through transport.
func startRecorder(t *testing.T, upstream string, transport http.RoundTripper) *recorder {
	t.Helper()
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the upstream builds its Locations from it: they lead back here
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { rec.serve(w, r, proxy) }))
	rec.URL = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		if t.Failed() {
			t.Logf("the upstream was asked:\n%s", rec)
		}
	})
	return rec
}

func (rec *recorder) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	user, _, _ := r.BasicAuth()
	entry := &seen{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, User: user, Authorized: r.Header.Get("Authorization") != ""}
	rec.mu.Lock()
	rec.list = append(rec.list, entry)
	rule := rec.rule
	rec.mu.Unlock()
	body := &countingBody{ReadCloser: r.Body}
	r.Body = body
	status := &statusWriter{ResponseWriter: w}
	// Also when a rule cuts the connection by a panic.
	defer func() {
		rec.mu.Lock()
		entry.Status, entry.Body = status.status, body.n.Load()
		rec.mu.Unlock()
	}()
	if rule == nil || !rule(status, r) {
		next.ServeHTTP(status, r)
	}
}

// setRule installs what happens before a request reaches the upstream; nil removes it.
func (rec *recorder) setRule(rule func(w http.ResponseWriter, r *http.Request) bool) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.rule = rule
}

// reset forgets the requests so far and returns them.
func (rec *recorder) reset() requests {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	list := rec.list
	rec.list = nil
	return copied(list)
}

// requests returns the requests so far.
func (rec *recorder) requests() requests {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return copied(rec.list)
}

func (rec *recorder) String() string { return rec.requests().String() }

// requests is a list of requests that can be asked for some of them.
type requests []seen

func copied(list []*seen) requests {
	out := make(requests, 0, len(list))
	for _, s := range list {
		out = append(out, *s)
	}
	return out
}

func (rs requests) String() string {
	lines := make([]string, 0, len(rs))
	for _, s := range rs {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, "\n")
}

func (rs requests) where(keep func(seen) bool) requests {
	return slices.DeleteFunc(slices.Clone(rs), func(s seen) bool { return !keep(s) })
}

var uploadPath = regexp.MustCompile(`^/v2/.+/blobs/uploads/`)

// uploadsStarted are the POSTs that ask for a session, mounts are the POSTs that ask for a blob of another repository,
// bodies are requests that brought bytes of a blob, manifestPuts store manifests.
func (rs requests) uploadsStarted() requests {
	return rs.where(func(s seen) bool {
		return s.Method == "POST" && uploadPath.MatchString(s.Path) && !strings.Contains(s.Query, "mount=")
	})
}

func (rs requests) mounts() requests {
	return rs.where(func(s seen) bool {
		return s.Method == "POST" && uploadPath.MatchString(s.Path) && strings.Contains(s.Query, "mount=")
	})
}

func (rs requests) bodies() requests {
	return rs.where(func(s seen) bool { return s.Body > 0 && uploadPath.MatchString(s.Path) })
}

func (rs requests) manifestPuts() requests {
	return rs.where(func(s seen) bool { return s.Method == "PUT" && strings.Contains(s.Path, "/manifests/") })
}

func (rs requests) writes() requests {
	return rs.where(func(s seen) bool { return s.Method != "GET" && s.Method != "HEAD" })
}

// heads are the questions whether a blob is there.
func (rs requests) heads(digest string) requests {
	return rs.where(func(s seen) bool { return s.Method == "HEAD" && strings.HasSuffix(s.Path, "/blobs/"+digest) })
}

// sum is the number of bytes that the requests brought.
func (rs requests) sum() (n int64) {
	for _, s := range rs {
		n += s.Body
	}
	return n
}

// has tells whether the query has this value, however it is escaped.
func (s seen) has(key, value string) bool {
	q, err := url.ParseQuery(s.Query)
	return err == nil && q.Get(key) == value
}

type countingBody struct {
	io.ReadCloser
	n atomic.Int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// gate holds requests back until it is opened.
type gate struct {
	open    chan struct{}
	waiting chan struct{} // closed when the first request waits
	once    sync.Once
}

func newGate() *gate { return &gate{open: make(chan struct{}), waiting: make(chan struct{})} }

func (g *gate) wait(ctx context.Context) {
	g.once.Do(func() { close(g.waiting) })
	select {
	case <-g.open:
	case <-ctx.Done():
	}
}

// holdFirstBody holds the first request that brings bytes of a blob, before the upstream sees any of it.
func holdFirstBody(most time.Duration) func(http.ResponseWriter, *http.Request) bool {
	var once sync.Once
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PUT" || r.Method == "PATCH" {
			once.Do(func() {
				select {
				case <-time.After(most):
				case <-r.Context().Done():
				}
			})
		}
		return false
	}
}
