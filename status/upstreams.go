package status

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// known returns the upstreams of a principal, as they were known lately.
func (s *Server) known(principal string) []Known {
	if s.Upstreams == nil {
		return nil
	}
	s.facts.mu.Lock()
	defer s.facts.mu.Unlock()
	if s.facts.known == nil {
		s.facts.known = map[string]*fact[[]Known]{}
	}
	f := s.facts.known[principal]
	if f == nil {
		if len(s.facts.known) > mostHosts {
			clear(s.facts.known)
		}
		f = &fact[[]Known]{}
		s.facts.known[principal] = f
	}
	return f.get(&s.facts.mu, func(ctx context.Context) ([]Known, bool) { return s.Upstreams(ctx, principal), true })
}

// upstreams returns the upstreams that the viewer may see, by name. Who sees
// everything sees the sum of what all principals do there.
func (s *Server) upstreams(v Viewer) []Upstream {
	all := map[string]*Upstream{}
	of := func(host string) *Upstream {
		if all[host] == nil {
			all[host] = &Upstream{Host: host, Reachable: "unknown"}
		}
		return all[host]
	}
	principal := v.Principal
	if v.All && s.Owner != "" {
		principal = s.Owner
	}
	for _, k := range s.known(principal) {
		of(k.Host).Quirks = k.Quirks
	}
	if s.Tracker != nil {
		s.Tracker.fares(v, principal, of)
	}
	out := []Upstream{}
	for _, u := range all {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b Upstream) int { return strings.Compare(a.Host, b.Host) })
	return out
}

// fares adds how the upstreams fare.
func (t *Tracker) fares(v Viewer, owner string, of func(host string) *Upstream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limits := map[string][]limit{}
	for key, h := range t.hosts {
		if !v.sees(key.principal) {
			continue
		}
		u := of(key.host)
		if h.reachable != "" && h.since.After(u.Since) {
			u.Reachable, u.Since, u.Why = h.reachable, h.since, h.why
		}
		if key.principal == owner {
			u.Expires, u.Credential = h.expires, h.credential
		}
		if h.paused.After(u.Paused) && h.paused.After(time.Now()) {
			u.Paused = h.paused
		}
		limits[key.host] = append(limits[key.host], h.limits...)
		u.Rate, u.Requests, u.Failures = u.Rate+h.rate, u.Requests+h.requests, u.Failures+h.failures
	}
	for host, met := range limits {
		slices.SortFunc(met, func(a, b limit) int { return cmp.Compare(a.when.UnixNano(), b.when.UnixNano()) })
		for _, l := range met[max(0, len(met)-mostLimits):] {
			of(host).Limits = append(of(host).Limits, l.text)
		}
	}
	for key, pushes := range t.at {
		if !v.sees(key.principal) {
			continue
		}
		seen := map[string]bool{}
		for _, p := range pushes {
			for _, b := range p.pieces {
				name := b.Digest + b.Upload
				if p.over || p.ID == "" || seen[name] {
					continue
				}
				seen[name] = true
				switch {
				case b.goes == BlobPushing:
					of(key.repo.Host).Uploading++
				case b.goes == BlobWaiting || b.goes == BlobRetrying:
					of(key.repo.Host).Waiting++
				}
			}
		}
	}
}
