package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

const (
	// quickAnswer bounds the wait for an answer's header (trust.md S32).
	quickAnswer = 30 * time.Second
	// slowAnswer does so where the upstream may be committing what it was
	// sent: Artifactory takes minutes over a large layer.
	slowAnswer = 10 * time.Minute
	// idleBody bounds the wait for leastBody bytes of an answer's body.
	idleBody  = time.Minute
	leastBody = 60 << 10
	// maxText is how much of an answer that is not content is read, in bytes.
	maxText = 64 << 10
)

// errStalled ends a request whose upstream makes no progress.
var errStalled = errors.New("no answer in time")

// call is one request, before it is bound to a base URL.
type call struct {
	what   string // completes "the registry refused to …"
	op     Op
	repo   oci.Repo
	method string
	path   string   // below the base URL, starts with /v2/
	query  string   // raw
	target *url.URL // an upload session: instead of path and query, without fallback
	header http.Header
	body   func() (io.ReadCloser, error) // called again for each replay
	size   int64                         // of body, in bytes; -1: not known; 0: there is none
	slow   bool                          // the upstream may take minutes to answer
	single bool                          // not retried
	asIs   bool                          // any answer but "slow down" is taken as it is

	// What observers are told beside.
	digest    digest.Digest
	reference string
	from      string
	attempt   int
}

// answer is what the upstream said.
type answer struct {
	Status     int
	Header     http.Header
	Length     int64         // Content-Length, -1: not known
	Body       io.ReadCloser // only of a 2xx to GET; else nil
	text       []byte        // at most maxText of any other body
	from       *url.URL      // where it came from, after redirects
	redirected bool
}

// close releases the connection of an answer that has a body.
func (a *answer) close() {
	if a != nil && a.Body != nil {
		a.Body.Close()
	}
}

// ok reports whether the status is 2xx.
func (a *answer) ok() bool { return a.Status/100 == 2 }

// do sends k, again where that can help, and returns the upstream's last
// answer whatever its status, or an error meant for people when there is none.
func (c *Client) do(ctx context.Context, k call) (*answer, error) {
	t := &tries{c: c, repo: k.repo, digest: k.digest, what: k.what}
	for {
		if err := c.calm(ctx); err != nil {
			return nil, t.ended(ctx)
		}
		k.attempt = t.n + 1
		t.begin()
		a, err := c.once(ctx, k)
		if ctx.Err() != nil {
			a.close()
			return nil, t.ended(ctx)
		}
		f, transient := judge(a, err)
		if !transient || k.single || k.asIs && err == nil && !f.busy || !t.more(f) {
			return a, c.unreachable(k, err)
		}
		if err := t.wait(ctx, f); err != nil {
			return nil, err
		}
	}
}

// once sends k to the first base URL whose transport works.
func (c *Client) once(ctx context.Context, k call) (*answer, error) {
	if k.target != nil {
		return c.send(ctx, k, k.target)
	}
	last, bases := errors.New("no URL is configured"), c.bases()
	ctx = withWays(ctx, len(bases))
	for _, base := range bases {
		if c.downgrade(base) {
			continue
		}
		a, err := c.send(ctx, k, under(base, k))
		if err == nil {
			c.answered(base)
			return a, nil
		}
		last = err
		if ctx.Err() != nil || decided(err) {
			break
		}
		c.failed(base, err)
	}
	return nil, last
}

// under returns the URL of k below base, which may have a path of its own.
func under(base *url.URL, k call) *url.URL {
	u := *base
	u.Path = strings.TrimSuffix(base.Path, "/") + k.path
	u.RawPath, u.RawQuery, u.Fragment = "", k.query, ""
	return &u
}

// send sends k to u and follows the redirects that the rules allow.
func (c *Client) send(ctx context.Context, k call, u *url.URL) (*answer, error) {
	for hops := 0; ; hops++ {
		resp, w, err := c.roundTrip(ctx, k, u)
		if err != nil {
			return nil, err
		}
		if !redirects(resp) {
			return read(k, u, resp, w, hops > 0)
		}
		drop(resp, w)
		if u, err = follow(k, u, resp, hops); err != nil {
			return nil, err
		}
	}
}

// roundTrip sends k to u once. The caller ends the watch when it is done with
// the response.
func (c *Client) roundTrip(ctx context.Context, k call, u *url.URL) (*http.Response, *watch, error) {
	limit := quickAnswer
	if k.slow {
		limit = slowAnswer
	}
	ctx, e := c.observe(ctx, k, u)
	w := startWatch(oci.ContextWithRepo(ctx, k.repo), limit)
	req, err := http.NewRequestWithContext(w.ctx, k.method, u.String(), nil)
	if err != nil {
		w.end()
		return nil, nil, errors.New("the upstream named a location that is no URL")
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", "pushproxy")
	req.Header.Set("Accept-Encoding", "identity")
	if k.size != 0 {
		req.GetBody = func() (io.ReadCloser, error) {
			w.pause()
			defer w.resume()
			b, err := k.body()
			if err != nil {
				return nil, err
			}
			return &sentBody{ReadCloser: b, w: w, e: e}, nil
		}
		req.ContentLength = k.size
		if req.Body, err = req.GetBody(); err != nil {
			w.end()
			return nil, nil, err
		}
	}
	resp, err := c.transport().RoundTrip(req)
	if err != nil {
		err = w.explain(err)
		w.end()
		return nil, nil, err
	}
	return resp, w, nil
}

// read turns a response into an answer: content stays a stream, everything else
// is read here so that the connection can be used again.
func read(k call, u *url.URL, resp *http.Response, w *watch, redirected bool) (*answer, error) {
	a := &answer{Status: resp.StatusCode, Header: resp.Header, Length: resp.ContentLength, from: u, redirected: redirected}
	if !a.ok() || k.method != http.MethodGet {
		a.text = drop(resp, w)
		return a, nil
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		drop(resp, w)
		return nil, oci.ErrUpstream.With("%s sent content encoded as %s, which was not asked for; its digest could not be checked", u.Host, plain(coding)).
			Because(errVerdict)
	}
	w.pause()
	a.Body = &gotBody{ReadCloser: resp.Body, w: w, left: idleBody, want: leastBody}
	return a, nil
}

// drop reads up to maxText of the response's body and ends it.
func drop(resp *http.Response, w *watch) []byte {
	w.set(quickAnswer)
	// What could not be read is not missed: the status has been received.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxText))
	resp.Body.Close()
	w.end()
	return text
}
