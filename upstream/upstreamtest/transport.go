package upstreamtest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
)

// Transport returns a RoundTripper that hands requests to handler without a
// network, so that time may be fake. A handler that panics with
// http.ErrAbortHandler is a connection that was cut.
func Transport(handler http.Handler) http.RoundTripper { return memory{handler} }

// Transport is the function of that name for this registry.
func (r *Registry) Transport() http.RoundTripper { return Transport(r) }

var errCut = errors.New("connection reset by peer")

type memory struct{ handler http.Handler }

func (m memory) RoundTrip(req *http.Request) (*http.Response, error) {
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.Host, in.RequestURI = req.URL.Host, req.URL.RequestURI()
	if req.Host != "" {
		in.Host = req.Host
	}
	w := httptest.NewRecorder()
	done := make(chan error, 1)
	go func() {
		defer func() {
			switch p := recover(); p {
			case nil:
				done <- nil
			case http.ErrAbortHandler:
				done <- errCut
			default:
				panic(p)
			}
		}()
		m.handler.ServeHTTP(w, in)
	}()
	var err error
	select {
	case err = <-done:
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if req.Body != nil {
		req.Body.Close()
	}
	if err != nil && !w.Flushed {
		return nil, err
	}
	resp := w.Result()
	resp.Request = req
	if req.Method == http.MethodHead {
		resp.Body = http.NoBody
	}
	if err != nil {
		resp.Body = io.NopCloser(io.MultiReader(resp.Body, broken{}))
	}
	return resp, nil
}

// broken is the end of a body whose connection was cut.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
