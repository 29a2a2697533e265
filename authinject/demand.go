package authinject

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pushproxy/oci"
)

// demand is what an origin wants to see before it serves requests.
type demand struct {
	scheme  string   // bearer, basic, or "" for nothing
	realm   *url.URL // of bearer; nil when the challenge names none
	service string
}

func (t *Transport) demand(origin string) (demand, bool) {
	st := t.state()
	st.mu.Lock()
	defer st.mu.Unlock()
	d, ok := st.demands[origin]
	return d, ok
}

// learn remembers what a 401 from an origin asks for. sent is the scheme that
// was refused. The error is that of a token server which the policy refuses; it
// is not remembered, since the registry may be corrected.
func (t *Transport) learn(from *url.URL, header http.Header, sent string) error {
	best, ok := choose(parseChallenges(header))
	if !ok {
		return nil
	}
	if sent == "bearer" && best.scheme == "basic" {
		// Harbor names Basic when it refuses a token; it does not mean that
		// the password should come to it instead.
		return nil
	}
	d := demand{scheme: best.scheme, service: best.params["service"]}
	if realm := best.params["realm"]; best.scheme == "bearer" && realm != "" {
		var err error
		d.realm, err = realmPolicy{host: t.Host, origin: from, trusted: t.TrustedRealms}.check(realm)
		if err != nil {
			t.forget(originOf(from))
			return err
		}
	}
	t.remember(originOf(from), d)
	return nil
}

func (t *Transport) remember(origin string, d demand) {
	st := t.state()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.demands[origin] = d
}

// forget makes the next request ask the origin anew what it demands.
func (t *Transport) forget(origin string) {
	st := t.state()
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.demands, origin)
}

// probe asks the API's root what it demands.
func (t *Transport) probe(ctx context.Context, root *url.URL) error {
	e := Event{Kind: EventProbe, Server: root.Host, Outcome: Broken, Began: time.Now()}
	defer func() { t.observe(ctx, e) }()
	req, err := http.NewRequestWithContext(oci.ContextAside(ctx), http.MethodGet, root.String(), nil)
	if err != nil {
		return err
	}
	if t.UserAgent != "" {
		req.Header.Set("User-Agent", t.UserAgent)
	}
	resp, err := t.base().RoundTrip(req)
	if err != nil {
		return err
	}
	defer discard(resp)
	e.Status, e.Outcome = resp.StatusCode, Succeeded
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return t.learn(root, resp.Header, "")
	case http.StatusOK:
		t.remember(originOf(root), demand{})
	}
	return nil
}

// apiRoot returns the address of /v2/ at u's origin.
func apiRoot(u *url.URL) *url.URL {
	root := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/v2/"}
	if before, _, ok := strings.Cut(u.Path, "/v2/"); ok {
		root.Path = before + "/v2/"
	}
	return &root
}
