package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"pushproxy/authinject"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/proxy"
	"pushproxy/upstream"
)

// upstreams makes and keeps the target of each upstream for each principal.
type upstreams struct {
	config  Config
	secret  func() authinject.Secret
	former  func() []authinject.Secret  // that were replaced and may still be needed; nil: none
	sources authinject.Chain            // of the principal local
	chains  map[string]authinject.Chain // of each configured principal
	forward *forward.Forwarder
	metrics *metrics                       // nil: nothing is counted
	quit    <-chan struct{}                // closed when the program stops; nil: a command, which ends with its context
	cas     map[string][]*x509.Certificate // by host

	mu      sync.Mutex
	targets map[targetKey]*reach
	rates   map[string]*upstream.Rate // by host
}

type targetKey struct{ principal, host string }

// reach is a target with what doctor looks at.
type reach struct {
	forward.Target
	transport *authinject.Transport
	entry     UpstreamConfig
	listed    bool // in the configuration
}

func newUpstreams(c Config, secret authinject.Secret, f *forward.Forwarder) (*upstreams, error) {
	u := &upstreams{
		config: c, secret: func() authinject.Secret { return secret }, forward: f, sources: sources(c.Credentials),
		chains: chains(c), cas: map[string][]*x509.Certificate{}, targets: map[targetKey]*reach{},
		rates: map[string]*upstream.Rate{},
	}
	for i, entry := range c.Upstreams {
		cas, err := readCAs(entry.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstreams[%d].ca_file: %w", i, err)
		}
		u.cas[entry.Host] = cas
	}
	return u, nil
}

// sources are the places where credentials are looked for, in the order in
// which they are asked.
func sources(c CredentialsConfig) authinject.Chain {
	chain := append(references(c), &authinject.Env{})
	helpers := &authinject.Helpers{Timeout: c.HelperTimeout, Env: c.HelperEnv}
	chain = append(chain, &authinject.DockerConfig{Path: dockerConfig(c), Helpers: helpers})
	for _, file := range podmanFiles(c) {
		chain = append(chain, &authinject.DockerConfig{Path: file, Kind: "podman auth file", Helpers: helpers})
	}
	return chain
}

func references(c CredentialsConfig) (chain authinject.Chain) {
	references := slices.Clone(c.References)
	// The longest key wins, as within a docker config.
	slices.SortStableFunc(references, func(a, b ReferenceConfig) int { return cmp.Compare(len(b.For), len(a.For)) })
	for _, r := range references {
		chain = append(chain, &authinject.Reference{Key: r.For, Username: r.Username, Password: expandReference(r.Password), Identity: expandReference(r.IdentityToken)})
	}
	return chain
}

func dockerConfig(c CredentialsConfig) string {
	if c.DockerConfig != "" {
		return c.DockerConfig
	}
	return cmp.Or(os.Getenv("DOCKER_CONFIG"), expand("~/.docker"))
}

func podmanFiles(c CredentialsConfig) []string {
	if c.PodmanAuth != "" {
		return []string{c.PodmanAuth}
	}
	return authinject.PodmanFiles(os.Getenv, expand("~"))
}

// expandReference lets a file reference begin in the home directory.
func expandReference(reference string) string {
	if path, ok := strings.CutPrefix(reference, "file:"); ok {
		return "file:" + expand(path)
	}
	return reference
}

func readCAs(file string) ([]*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	cas, err := upstream.ParseCAs(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cas, nil
}

// routes are the upstreams as the door sees them.
func (u *upstreams) routes() *proxy.Routes {
	routes := &proxy.Routes{Default: u.config.DefaultUpstream, Known: u.knows, Hosts: u.loggedIn}
	for _, entry := range u.config.Upstreams {
		routes.Upstreams = append(routes.Upstreams, proxy.Upstream{Host: entry.Host, Aliases: entry.Aliases, Prefix: entry.Prefix})
	}
	return routes
}

// loggedIn lists the registries that the user has credentials for, for messages:
// a source that cannot be read has none here and says so when it is needed.
func (u *upstreams) loggedIn(ctx context.Context) []string {
	caller := proxy.CallerFrom(ctx)
	hosts, err := u.chain(caller.Principal).Hosts(ctx)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(hosts, func(host string) bool {
		// The login to this program itself is none to an upstream.
		return !caller.Reaches(host) || slices.Contains(clientNames(u.config), host)
	})
}

// names lists the registries that can be pushed to, as far as is known.
func (u *upstreams) names(ctx context.Context) []string {
	names := u.loggedIn(ctx)
	for _, entry := range u.config.Upstreams {
		names = append(names, entry.Host)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// target returns the upstream of a host as the principal reaches it.
func (u *upstreams) target(ctx context.Context, principal, host string) (*forward.Target, error) {
	r, err := u.reach(principal, host, u.source(proxy.CallerFrom(ctx), principal, host))
	if err != nil {
		return nil, err
	}
	return &r.Target, nil
}

// reach is target with what doctor looks at. Its source is used where there is
// no target yet.
func (u *upstreams) reach(principal, host string, source authinject.Source) (*reach, error) {
	key := targetKey{principal, host}
	u.mu.Lock()
	defer u.mu.Unlock()
	if r := u.targets[key]; r != nil {
		return r, nil
	}
	entry, listed := u.entry(host)
	urls, err := parseURLs(append([]string{entry.URL}, entry.FallbackURLs...))
	if err != nil {
		return nil, err
	}
	proxyURL, err := proxyFor(u.config.Proxy, urls[0])
	if err != nil {
		return nil, err
	}
	var base http.RoundTripper = upstream.NewTransport(upstream.TransportOptions{Trust: trust(urls, entry, listed), CAs: u.cas[host], Proxy: proxyURL})
	if rate := u.rate(host, entry); rate != nil {
		base = upstream.Throttle{Base: base, Rate: rate}
	}
	transport := &authinject.Transport{
		Host: host, Origins: urls, Source: source, TrustedRealms: entry.TrustedRealms, UserAgent: userAgent(), Base: upstream.Wire{Base: base},
		Observe: func(ctx context.Context, e authinject.Event) { u.forward.LoggedIn(ctx, principal, e) },
	}
	r := &reach{transport: transport, entry: entry, listed: listed}
	r.Target = forward.Target{Principal: principal, Host: host, Owner: u.owner(principal, transport)}
	r.Warm = func(ctx context.Context, repo oci.Repo) error { return transport.Warm(ctx, repo, true) }
	r.Client = &upstream.Client{
		Host: host, URLs: urls, UploadHosts: entry.UploadHosts, HTTP: &http.Client{Transport: hop{transport}},
		Describe:  func(ctx context.Context, repo oci.Repo) string { return describe(ctx, transport, repo) },
		Notify:    func(ctx context.Context, r upstream.Retry) { u.forward.Retrying(ctx, principal, r) },
		Observe:   func(ctx context.Context, x upstream.Exchange) { u.forward.Asked(ctx, principal, x) },
		Quit:      u.quit,
		ChunkSize: size(entry.Sending.ChunkSize), MaxBody: size(entry.Sending.MaxBody),
	}
	u.metrics.watch(r)
	u.forgetSome()
	u.targets[key] = r
	return r, nil
}

// rate is what all that is sent to an upstream shares; nil: there is no limit. It
// needs u.mu.
func (u *upstreams) rate(host string, entry UpstreamConfig) *upstream.Rate {
	n := size(entry.Sending.Bandwidth)
	if n > 0 && u.rates[host] == nil {
		u.rates[host] = &upstream.Rate{PerSecond: n}
	}
	return u.rates[host]
}

// async reports whether pushes to a repository are queued.
func (u *upstreams) async(repo oci.Repo) bool {
	entry, _ := u.entry(repo.Host)
	return entry.isAsync(repo)
}

// policy is how the jobs of an upstream are carried out.
func (u *upstreams) policy(host string) forward.Policy {
	entry, _ := u.entry(host)
	return entry.Sending.policy()
}

// uploads is how many uploads an upstream gets at once; 0: the default.
func (u *upstreams) uploads(host string) int {
	entry, _ := u.entry(host)
	return entry.Sending.Concurrency
}

// entry returns the configuration of a host, or what stands for one that the
// user is logged in to.
func (u *upstreams) entry(host string) (entry UpstreamConfig, listed bool) {
	for _, entry := range u.config.Upstreams {
		if entry.Host == host {
			return entry, true
		}
	}
	return UpstreamConfig{Host: host, URL: defaultURL(host), Mode: "sync"}, false
}

// owner returns the fingerprint of the credential that requests about a
// repository are sent with.
func (u *upstreams) owner(principal string, t *authinject.Transport) func(context.Context, oci.Repo) (metadata.Owner, error) {
	return func(ctx context.Context, repo oci.Repo) (metadata.Owner, error) {
		c, err := t.Credential(ctx, repo)
		if err != nil {
			return metadata.Owner{}, err
		}
		return metadata.Owner(authinject.Owner(u.secret(), principal, t.Host, c)), nil
	}
}

// describe names the credential's source for messages.
func describe(ctx context.Context, t *authinject.Transport, repo oci.Repo) string {
	c, err := t.Credential(ctx, repo)
	switch {
	case err != nil:
		return ""
	case c.Anonymous():
		return "no credential (anonymous)"
	case c.Username != "":
		return c.Username + " from " + c.Source
	}
	return c.Source
}

func parseURLs(texts []string) (urls []*url.URL, err error) {
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u)
	}
	return urls, nil
}
