package upstream

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
)

// maxPaths bounds how many ways are remembered: redirects may lead anywhere.
const maxPaths = 64

// Transport is NewTransport's result: an http.Transport that knows which of the
// hosts it leads to cannot be reached. Requests to those fail at once with an
// error whose CutOff() is true, until a search in the background has found a way
// again.
type Transport struct {
	*http.Transport

	via    func(*http.Request) string // the authority that is dialled
	dialer *dialer

	mu    sync.Mutex
	paths map[string]*path
}

// path returns the way to an authority.
func (t *Transport) path(authority string) *path {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.paths[authority]; p != nil {
		return p
	}
	if len(t.paths) >= maxPaths {
		maps.DeleteFunc(t.paths, func(_ string, p *path) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.cut == nil
		})
	}
	p := &path{authority: authority, connect: t.dialer.dial, again: t.dialer.DialContext, lost: t.CloseIdleConnections, kick: make(chan struct{}, 1)}
	t.paths[authority] = p
	return p
}

func (t *Transport) dial(ctx context.Context, network, authority string) (net.Conn, error) {
	return t.path(strings.ToLower(authority)).dial(ctx, network)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	p := t.path(t.via(r))
	if err := p.admit(r.Context()); err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	q := &quiet{p: p, cancel: cancel, limit: answerIn}
	if r.ContentLength < 0 || r.ContentLength > smallBody {
		q.limit = bodyIn
	}
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: q.begin}))
	q.hearBody(r)
	resp, err := t.Transport.RoundTrip(r)
	q.end()
	if err != nil {
		if why := context.Cause(ctx); isCutOff(why) {
			err = why
		}
		cancel(nil)
		return nil, err
	}
	p.hear()
	resp.Body = &lastRead{resp.Body, cancel}
	return resp, nil
}

// lastRead ends a request's context with its answer's body.
type lastRead struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (l *lastRead) Close() error {
	err := l.ReadCloser.Close()
	l.cancel(nil)
	return err
}
