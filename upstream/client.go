// Package upstream is the client of one other registry: what is there, mounts,
// uploads, manifests, tags and pulls, with the retries, redirect rules, dial
// policy and registry quirks that pushing to real registries takes.
//
// It holds no credentials. The Transport of Client.HTTP injects them; every
// request carries its repository in the context (oci.ContextWithRepo), so that
// the injector can tell the scope even where an upload location has a path of
// its own. The order of a push is: HeadBlob, StartUpload (mount or start in one
// POST), Upload.Send, PutManifest.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pushproxy/oci"
)

// downFor is how long a base URL whose transport failed is tried after the
// others.
const downFor = 30 * time.Second

// Client speaks to one upstream registry. The exported fields are set before
// the first call and not changed later; the methods are safe for concurrent use.
type Client struct {
	// Host is the canonical name of the registry, used in messages.
	Host string
	// URLs are the base URL and then its fallbacks. They are tried in order
	// when the transport fails, never after an answer, and a host once reached
	// by TLS is not tried in the clear.
	URLs []*url.URL
	// UploadHosts are the hosts (or host:port), other than those of URLs, that
	// an upload location may name. Nothing there gets a credential.
	UploadHosts []string
	// HTTP supplies the Transport, which injects credentials for the origins of
	// URLs only. Nothing else of it is used: redirects follow this room's own
	// rules and there are no cookies. Nil means NewTransport's defaults.
	HTTP *http.Client
	// Describe says which credential source is used for repo, for messages. Nil
	// means that messages do not say.
	Describe func(ctx context.Context, repo oci.Repo) string
	// Attempts is how often one request is tried in all; 0 means 5.
	Attempts int
	// ChunkSize is how many bytes one request of an upload in chunks has; 0: what
	// the upstream is known to take.
	ChunkSize int64
	// MaxBody is the largest request body that the upstream takes, in bytes: larger
	// blobs go in chunks from the start. 0: that is found out.
	MaxBody int64
	// Notify, when set, is told of each retry before its delay begins, with the
	// ctx of the method that was called. It must not block.
	Notify func(ctx context.Context, r Retry)
	// Observe, when set, is told of each request that went out, once and when it
	// was answered, with the ctx of the method that was called. Wire, in
	// HTTP's Transport, does that. It must not block.
	Observe func(ctx context.Context, x Exchange)
	// Quit, when closed, ends all waiting between two attempts: what is under way
	// may still succeed, and nothing is repeated. Nil: never.
	Quit <-chan struct{}

	bare    sync.Once
	noHTTP  http.RoundTripper
	mu      sync.Mutex
	byTLS   map[string]bool      // host names reached by TLS
	down    map[string]time.Time // base URL → until when it is tried last
	paused  time.Time            // no request before: the upstream said 429
	heard   time.Time            // when it answered last
	learned learned
}

// Ping asks for the API's root, GET /v2/ (specification, end-1). Nil means that
// a registry answered and took the credential, if there is one.
func (c *Client) Ping(ctx context.Context) error { return c.ping(ctx, false) }

// Alive is Ping that asks once.
func (c *Client) Alive(ctx context.Context) error { return c.ping(ctx, true) }

func (c *Client) ping(ctx context.Context, once bool) error {
	k := call{what: "answer GET /v2/", op: OpPing, repo: oci.Repo{Host: c.Host}, method: http.MethodGet, path: "/v2/", single: once}
	a, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	defer a.close()
	switch a.Status {
	case http.StatusOK:
		return nil
	case http.StatusNotFound:
		return oci.ErrUpstream.With("%s does not speak the registry API: GET /v2/ answered 404; check the url of this upstream in the config", c.Host)
	}
	return c.fail(ctx, k, a, oci.ErrNotFound)
}

// CanPush opens an upload in repo and cancels it. Nil means that a push may
// start there.
func (c *Client) CanPush(ctx context.Context, repo oci.Repo) error {
	u, _, err := c.StartUpload(ctx, repo, "", "")
	if err != nil {
		return err
	}
	return u.Cancel(ctx)
}

// transport returns what sends requests. http.Client is not used to send: it
// would print signed query strings in its errors and follow redirects.
func (c *Client) transport() http.RoundTripper {
	if c.HTTP != nil && c.HTTP.Transport != nil {
		return c.HTTP.Transport
	}
	c.bare.Do(func() { c.noHTTP = Wire{NewTransport(TransportOptions{})} })
	return c.noHTTP
}

// bases returns the base URLs in the order to try them: those whose transport
// failed a moment ago last.
func (c *Client) bases() []*url.URL {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var up, down []*url.URL
	for _, u := range c.URLs {
		if now.Before(c.down[u.String()]) {
			down = append(down, u)
		} else {
			up = append(up, u)
		}
	}
	return append(up, down...)
}

// downgrade reports whether base is plain http at a host that has been reached by
// TLS, which is not used: whoever can break TLS must not gain by it.
func (c *Client) downgrade(base *url.URL) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return base.Scheme != "https" && c.byTLS[strings.ToLower(base.Hostname())]
}

// answered records that base works.
func (c *Client) answered(base *url.URL) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.down, base.String())
	c.heard = time.Now()
	if base.Scheme == "https" {
		c.markTLS(base)
	}
}

// failed records that the transport to base failed.
func (c *Client) failed(base *url.URL, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil {
		c.down = map[string]time.Time{}
	}
	c.down[base.String()] = time.Now().Add(downFor)
	// A certificate that does not verify is still TLS: falling back to clear
	// text would reward whoever presented it.
	var bad *tls.CertificateVerificationError
	if base.Scheme == "https" && errors.As(err, &bad) {
		c.markTLS(base)
	}
}

// markTLS needs c.mu.
func (c *Client) markTLS(base *url.URL) {
	if c.byTLS == nil {
		c.byTLS = map[string]bool{}
	}
	c.byTLS[strings.ToLower(base.Hostname())] = true
}

// checked returns an error unless repo's name is one that may stand in a path.
func checked(repo oci.Repo) error {
	if !oci.ValidName(repo.Name) {
		return oci.ErrNameInvalid.With("%s is not a repository name", plain(repo.Name))
	}
	return nil
}

// checkedReference returns an error unless reference is a tag or a digest.
func checkedReference(reference string) error {
	if oci.ValidTag(reference) {
		return nil
	}
	if _, err := oci.ParseDigest(reference); err != nil {
		return oci.ErrTagInvalid.With("%s is neither a tag, such as 1.0, nor a digest, such as sha256: and 64 hexadecimal digits", plain(reference))
	}
	return nil
}
