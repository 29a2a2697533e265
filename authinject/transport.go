package authinject

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pushproxy/oci"
)

const (
	// maxTries bounds how often one request is sent: without a credential,
	// with one, with a new one, without the mount's source.
	maxTries = 4
	// maxRefusalBody is how much of a 401's body is read to keep the
	// connection, in bytes.
	maxRefusalBody = 64 << 10
)

// Transport injects credentials for one registry. It is an http.RoundTripper;
// set the fields before its first use and do not copy it.
//
// To a configured origin it sends the Authorization that the origin asks for,
// learned from the first 401 and sent up front from then on. A request that is
// refused with a credential is sent once more with a new token, if its body can
// be sent again (no body, or GetBody). To any other origin requests go out
// bare. Authorization, Cookie and Proxy-* of the caller are always removed.
type Transport struct {
	// Host is the registry's canonical host: what credentials are looked up by.
	Host string
	// Origins are the only addresses that may get the credential, compared by
	// scheme, host and port. Plain http only where one of them says so.
	Origins []*url.URL
	// Source finds credentials; nil is always anonymous.
	Source Source
	// Base sends requests to registry and token server, and enforces which
	// addresses may be dialled; nil means http.DefaultTransport.
	Base http.RoundTripper
	// TrustedRealms are further token servers that may get the credential, as
	// host or host:port.
	TrustedRealms []string
	// UserAgent is sent to token servers, and where a request has none.
	UserAgent string
	// Observe, when set, is told of each request that is made for a token or to
	// learn what the registry asks for, with the values of the ctx of whoever
	// needed it first. It must not block.
	Observe func(context.Context, Event)

	once sync.Once
	st   *state
}

// state is behind a pointer so that nothing that prints a Transport can reach
// it.
type state struct {
	tokens *tokens

	mu      sync.Mutex
	demands map[string]demand // by origin
}

func (t *Transport) state() *state {
	t.once.Do(func() {
		t.st = &state{
			tokens:  &tokens{now: time.Now, held: map[tokenKey]*token{}, renewed: map[tokenKey]*Secret{}},
			demands: map[string]demand{},
		}
	})
	return t.st
}

func (t *Transport) base() http.RoundTripper {
	if t.Base != nil {
		return t.Base
	}
	return http.DefaultTransport
}

// Credential returns the credential that requests about repo are sent with: the
// zero Credential when there is none.
func (t *Transport) Credential(ctx context.Context, repo oci.Repo) (Credential, error) {
	if t.Source == nil {
		return Credential{}, nil
	}
	// Never another host's credential, whatever the caller wrote.
	repo.Host = t.Host
	c, err := t.Source.Credential(ctx, repo)
	if errors.Is(err, ErrNone) {
		return Credential{}, nil
	}
	return c, err
}

// Warm fetches a token ahead of need: for pulling from repo, and for pushing
// if push is set. Its error is the one that requests would meet.
func (t *Transport) Warm(ctx context.Context, repo oci.Repo, push bool) error {
	if len(t.Origins) == 0 {
		return nil
	}
	origin := t.Origins[0]
	if _, known := t.demand(originOf(origin)); !known {
		if err := t.probe(ctx, origin.JoinPath("/v2/")); err != nil {
			return err
		}
	}
	w := want{repo: oci.Repo{Host: t.Host, Name: repo.Name}}
	switch {
	case repo.Name == "":
	case push:
		w.actions = "pull,push"
	default:
		w.actions = "pull"
	}
	_, err := t.authorize(ctx, originOf(origin), &w)
	return err
}

// RoundTrip implements http.RoundTripper. Its own errors are *oci.Error: a
// credential that cannot be had, a token server that refuses or is refused. A
// 401 that no credential heals is returned as the answer it is.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	bare := req.Clone(req.Context())
	bare.Host, bare.URL.User = "", nil
	for name := range bare.Header {
		switch lower := strings.ToLower(name); {
		case lower == "authorization", lower == "cookie", strings.HasPrefix(lower, "proxy-"):
			delete(bare.Header, name)
		}
	}
	if bare.Header == nil {
		bare.Header = http.Header{}
	}
	if t.UserAgent != "" && bare.Header.Get("User-Agent") == "" {
		bare.Header.Set("User-Agent", t.UserAgent)
	}
	resp, err := t.send(bare)
	if resp != nil {
		// The request that was sent carries the secret; the caller sees their own.
		resp.Request = req
	}
	return resp, err
}

func (t *Transport) send(bare *http.Request) (*http.Response, error) {
	origin := originOf(bare.URL)
	if !t.configured(origin) {
		return t.base().RoundTrip(bare)
	}
	once := bare.Body != nil && bare.Body != http.NoBody && bare.GetBody == nil
	if _, known := t.demand(origin); !known && once {
		// A body that can be sent only once must not meet the first 401.
		if err := t.probe(bare.Context(), apiRoot(bare.URL)); err != nil {
			closeBody(bare)
			return nil, err
		}
	}
	w := wantOf(bare, t.Host)
	auth, err := t.authorize(bare.Context(), origin, &w)
	if err != nil {
		closeBody(bare)
		return nil, err
	}
	for try := 1; ; try++ {
		out := bare.Clone(bare.Context())
		if try > 1 && bare.GetBody != nil {
			if out.Body, err = bare.GetBody(); err != nil {
				return nil, err
			}
		}
		if auth.header != "" {
			out.Header.Set("Authorization", auth.header.Reveal())
		}
		resp, err := t.base().RoundTrip(out)
		if err != nil {
			return resp, err
		}
		scrub(resp, auth)
		if resp.StatusCode != http.StatusUnauthorized {
			return resp, nil
		}
		again, err := t.heal(bare, resp.Header, auth, &w)
		if err == nil && (!again || once || try == maxTries) {
			return resp, nil
		}
		if err == nil {
			auth, err = t.authorize(bare.Context(), origin, &w)
		}
		if err == nil && auth.header == "" {
			return resp, nil
		}
		discard(resp)
		if err != nil {
			return nil, err
		}
	}
}

func (t *Transport) configured(origin string) bool {
	for _, u := range t.Origins {
		if origin != "" && originOf(u) == origin {
			return true
		}
	}
	return false
}

func basicHeader(c Credential) Secret {
	return Secret("Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password.Reveal())))
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// discard reads a little of an answer that nobody wants, so that its
// connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxRefusalBody)
	_ = resp.Body.Close()
}
