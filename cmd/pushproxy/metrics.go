package main

import (
	"context"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pushproxy/authinject"
	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/proxy"
	"pushproxy/upstream"
)

const (
	// namedUpstreams is how many upstreams that are not in the configuration
	// metrics name; the rest of them are otherUpstream.
	namedUpstreams = 20
	otherUpstream  = "other"
)

// hostLabels names upstreams in metrics: a bounded number of them, whatever is
// pushed and whoever logs in.
type hostLabels struct {
	mu    sync.Mutex
	named map[string]bool
	left  int // that may still be named
}

func newHostLabels(c Config) *hostLabels {
	h := &hostLabels{named: map[string]bool{}, left: namedUpstreams}
	for _, u := range c.Upstreams {
		h.named[u.Host] = true
	}
	return h
}

// label returns what a host is called.
func (h *hostLabels) label(host string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.named[host]:
		return host
	case h.left == 0:
		return otherUpstream
	}
	h.named[host] = true
	h.left--
	return host
}

// metrics are the numbers of all rooms.
type metrics struct {
	upstream *upstream.Metrics
	auth     *authinject.Metrics
	cache    *blobcache.Metrics
	forward  *forward.Metrics
	proxy    *proxy.Metrics
}

// newMetrics returns the numbers of rooms that have done nothing yet, and has
// them tell it what they do.
func newMetrics(c Config, s *stores, cache *blobcache.Cache, u *upstreams) *metrics {
	label := newHostLabels(c).label
	m := &metrics{
		upstream: upstream.NewMetrics(label), auth: authinject.NewMetrics(label), forward: forward.NewMetrics(label), proxy: proxy.NewMetrics(),
		cache: &blobcache.Metrics{Cache: cache, Quota: size(c.Cache.Quota), Disk: s.blobs.Disk},
	}
	m.forward.Forward, u.forward.Metrics, u.metrics = u.forward, m.forward, m
	chains := append(slices.Collect(maps.Values(u.chains)), u.sources)
	for _, source := range slices.Concat(chains...) {
		if files, ok := source.(*authinject.DockerConfig); ok {
			files.Helpers.Observe = func(_ context.Context, e authinject.Event) { m.auth.Observe(e) }
		}
	}
	return m
}

// watch has the requests of a target counted, and those for its credentials,
// beside what observes them already. A nil metrics counts nothing.
func (m *metrics) watch(r *reach) {
	if m == nil {
		return
	}
	seen, done := r.Client.Observe, r.transport.Observe
	r.Client.Observe = func(ctx context.Context, x upstream.Exchange) {
		m.upstream.Observe(x)
		if seen != nil {
			seen(ctx, x)
		}
	}
	r.transport.Observe = func(ctx context.Context, e authinject.Event) {
		m.auth.Observe(e)
		if done != nil {
			done(ctx, e)
		}
	}
}

// handler answers with all numbers, also those of the queue, in the text format
// of Prometheus. It is asked for once, and the error is that of numbers that
// cannot stand side by side.
func (m *metrics) handler(q *forward.Queue) (http.Handler, error) {
	m.forward.Queue = q
	registry := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pushproxy_build_info", Help: "Always 1; its labels say which program this is.",
	}, []string{"version", "go_version"})
	build.WithLabelValues(version(), runtime.Version()).Set(1)
	all := slices.Concat(m.rooms(), []prometheus.Collector{
		build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	})
	for _, c := range all {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}), nil
}

func (m *metrics) rooms() []prometheus.Collector {
	return []prometheus.Collector{m.upstream, m.auth, m.cache, m.forward, m.proxy}
}
