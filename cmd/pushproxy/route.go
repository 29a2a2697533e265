package main

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"pushproxy/proxy"
	"pushproxy/upstream"
)

// proxyFor returns the HTTP proxy that an upstream is reached through, as the
// key proxy says. The environment counts only where the key says so: it would
// otherwise decide who sees where pushes go.
func proxyFor(setting string, base *url.URL) (*url.URL, error) {
	switch setting {
	case "":
		return nil, nil
	case "environment":
		return http.ProxyFromEnvironment(&http.Request{URL: base})
	}
	return url.Parse(setting)
}

// trust says which addresses the names of an upstream may have. What the
// configuration spells out may be anywhere; a registry that the user is logged
// in to may be in a private network; names that an upstream chose may not.
func trust(urls []*url.URL, entry UpstreamConfig, listed bool) func(string) upstream.Trust {
	named := map[string]bool{}
	for _, u := range urls {
		named[authority(u.Host, u.Scheme)] = true
	}
	for _, host := range slices.Concat(entry.TrustedRealms, entry.UploadHosts) {
		named[authority(strings.ToLower(host), "https")] = true
		named[authority(strings.ToLower(host), "http")] = true
	}
	level := upstream.TrustPrivate
	if listed {
		level = upstream.TrustNamed
	}
	return func(authority string) upstream.Trust {
		if named[authority] {
			return level
		}
		return upstream.TrustPublic
	}
}

// authority is host:port, with the scheme's port where none is written.
func authority(host, scheme string) string {
	u := url.URL{Host: strings.ToLower(host)}
	if u.Port() != "" {
		return u.Host
	}
	if scheme == "http" {
		return u.Host + ":80"
	}
	return u.Host + ":443"
}

// hop marks what goes upstream, so that a loop ends at its first turn.
type hop struct{ http.RoundTripper }

// RoundTrip adds the mark.
func (h hop) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(proxy.HopHeader, "1")
	return h.RoundTripper.RoundTrip(r)
}

func userAgent() string { return "pushproxy/" + version() }
