package upstreamtest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"
)

// Fault is one scripted misfortune of the requests it matches.
type Fault struct {
	Method string // "" matches every method
	Path   string // part of the path; "" matches every path
	Skip   int    // lets so many matching requests pass first
	Times  int    // how many it hits; 0: one; -1: all

	Delay      time.Duration // waits before all else, unless the client goes away
	Status     int           // is the answer
	Code       string        // error code in it; "": UNKNOWN
	RetryAfter string        // its Retry-After header
	Reset      bool          // cuts the connection without an answer …
	ResetAt    int64         // … after so many bytes of the body, which are kept
	Lost       bool          // does what it was asked, then cuts the connection
	Cut        int64         // cuts the connection after so many bytes of the answer's body
}

// Inject adds faults. A request meets the first that matches and is not used up.
func (r *Registry) Inject(faults ...Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		r.faults = append(r.faults, &f)
	}
}

var errReset = errors.New("cut by a fault")

// inject applies the fault that is due for req, if any; stop means that the
// request is over.
func (r *Registry) inject(w http.ResponseWriter, req *http.Request) (_ http.ResponseWriter, stop bool) {
	f := r.due(req)
	if f == nil {
		return w, false
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	switch {
	case f.Status != 0:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		code := f.Code
		if code == "" {
			code = "UNKNOWN"
		}
		r.fail(w, f.Status, code, "scripted fault")
		return w, true
	case f.Reset:
		if f.ResetAt == 0 {
			panic(http.ErrAbortHandler)
		}
		req.Body = &cutBody{req.Body, f.ResetAt}
	case f.Lost:
		return &lostWriter{httptest.NewRecorder()}, false
	case f.Cut > 0:
		return &cutWriter{w, f.Cut}, false
	}
	return w, false
}

func (r *Registry) due(req *http.Request) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults {
		if f.Times == 0 || f.Method != "" && f.Method != req.Method || !strings.Contains(req.URL.Path, f.Path) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			return nil
		}
		f.Times--
		return f
	}
	return nil
}

// cutBody ends a body with errReset after left bytes.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errReset
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// lostWriter takes an answer that never arrives.
type lostWriter struct{ *httptest.ResponseRecorder }

func (w *lostWriter) WriteHeader(int) { panic(http.ErrAbortHandler) }

func (w *lostWriter) Write([]byte) (int, error) { panic(http.ErrAbortHandler) }

// cutWriter breaks off an answer.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}
