package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Op is what a request to an upstream is for. There are no others than those
// below, whatever is pushed.
type Op string

// The operations, with their end-points of the specification.
const (
	OpPing           Op = "ping"            // GET /v2/ (end-1)
	OpHead           Op = "head"            // HEAD of a blob (end-2)
	OpBlobGet        Op = "blob-get"        // GET of a blob (end-2)
	OpBlobDelete     Op = "blob-delete"     // end-10
	OpMount          Op = "mount"           // POST that asks for a mount (end-11)
	OpStart          Op = "start"           // POST of a session (end-4a)
	OpPatch          Op = "patch"           // PATCH with a part of a blob (end-5)
	OpUpload         Op = "upload"          // PUT with the rest of a blob (end-6)
	OpFinish         Op = "finish"          // PUT that only closes a session (end-6)
	OpStatus         Op = "status"          // GET of a session (end-13)
	OpCancel         Op = "cancel"          // DELETE of a session (end-14)
	OpManifestHead   Op = "manifest-head"   // end-3
	OpManifestGet    Op = "manifest-get"    // end-3
	OpManifestPut    Op = "manifest-put"    // end-7
	OpManifestDelete Op = "manifest-delete" // end-9
	OpTags           Op = "tags"            // end-8
	OpReferrers      Op = "referrers"       // end-12
)

// Failure is a class of faults that leave a request without a whole answer.
type Failure string

// The classes of faults.
const (
	FailedDial     Failure = "dial"     // no connection: no network, nobody listens, an address that is refused
	FailedName     Failure = "name"     // the host's name was not resolved
	FailedTLS      Failure = "tls"      // the certificate was not trusted, or no TLS came about
	FailedStalled  Failure = "stalled"  // no progress in time
	FailedCanceled Failure = "canceled" // whoever asked does not need it any more
	FailedBroken   Failure = "broken"   // the connection broke, or whatever else
)

// Exchange is one HTTP request that went to an upstream, with its answer.
type Exchange struct {
	Op        Op
	Host      string // the upstream's canonical name
	Address   string // host and port that it went to: a base URL's, an upload location's or a redirect's
	Repo      oci.Repo
	Digest    digest.Digest // of the blob; "" where it is not known, or it is not about one
	Reference string        // tag or digest of the manifest
	From      string        // the repository to mount from, with OpMount
	Attempt   int           // at the same thing, from 1; the tries within one, such as after a 401, share it

	Status   int     // of the answer; 0: there was none
	Failure  Failure // "" where nothing went wrong on the way
	Sent     int64   // bytes of the request's body that were read for it
	Received int64   // bytes of the answer's body; of content what was read, else what was announced
	Began    time.Time
	Took     time.Duration // until the answer's header, or the fault
}

// Wire is the RoundTripper that tells a Client's Observe of the requests that
// really go out. It belongs below whatever sends a request more than once, such
// as the credential injector. Without an observer it only passes on.
type Wire struct {
	Base http.RoundTripper
}

type exchangeKey struct{}

// exchange is a request that is observed.
type exchange struct {
	Exchange
	ctx  context.Context // of the caller
	tell func(context.Context, Exchange)
	sent atomic.Int64 // bytes read of the bodies so far
}

// observe returns a context that lets Wire tell of k's requests to u, and what
// their bodies are counted by; nil when nobody wants to know.
func (c *Client) observe(ctx context.Context, k call, u *url.URL) (context.Context, *exchange) {
	if c.Observe == nil {
		return ctx, nil
	}
	e := &exchange{ctx: ctx, tell: c.Observe}
	e.Exchange = Exchange{
		Op: k.op, Host: c.Host, Address: u.Host, Repo: k.repo, Digest: k.digest, Reference: k.reference, From: k.from,
		Attempt: max(1, k.attempt),
	}
	return context.WithValue(ctx, exchangeKey{}, e), e
}

// RoundTrip implements http.RoundTripper. The observer is told when the answer's
// header is there, and of content (2xx to GET) when its body is closed.
func (w Wire) RoundTrip(req *http.Request) (*http.Response, error) {
	e, _ := req.Context().Value(exchangeKey{}).(*exchange)
	if e == nil || oci.IsAside(req.Context()) {
		return w.Base.RoundTrip(req)
	}
	before := e.sent.Load()
	x := e.Exchange
	x.Began = time.Now()
	resp, err := w.Base.RoundTrip(req)
	x.Took = time.Since(x.Began)
	if err != nil {
		x.Sent, x.Failure = e.sent.Load()-before, classify(req.Context(), err)
		e.tell(e.ctx, x)
		return resp, err
	}
	x.Status = resp.StatusCode
	if resp.StatusCode/100 != 2 || req.Method != http.MethodGet {
		// Nobody waits for what such an answer says at length.
		x.Sent, x.Received = e.sent.Load()-before, max(0, resp.ContentLength)
		if req.Method == http.MethodHead {
			x.Received = 0
		}
		e.tell(e.ctx, x)
		return resp, nil
	}
	resp.Body = &observedBody{ReadCloser: resp.Body, e: e, x: x, before: before, ctx: req.Context()}
	return resp, nil
}

// observedBody is an answer's body; its Close ends the exchange.
type observedBody struct {
	io.ReadCloser
	e      *exchange
	x      Exchange
	before int64
	ctx    context.Context
	closed atomic.Bool
}

// Read implements io.Reader.
func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.x.Received += int64(n)
	if err != nil && err != io.EOF {
		b.x.Failure = classify(b.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *observedBody) Close() error {
	err := b.ReadCloser.Close()
	if b.closed.CompareAndSwap(false, true) {
		b.x.Sent = b.e.sent.Load() - b.before
		b.e.tell(b.e.ctx, b.x)
	}
	return err
}

// classify returns the class of a transport's fault.
func classify(ctx context.Context, err error) Failure {
	var name *net.DNSError
	var dial *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(context.Cause(ctx), errStalled):
		return FailedStalled
	case ctx.Err() != nil:
		return FailedCanceled
	case errors.As(err, &name):
		return FailedName
	case untrusted(err), errors.As(err, &record):
		return FailedTLS
	case errors.As(err, &dial) && dial.Op == "dial":
		return FailedDial
	}
	return FailedBroken
}
