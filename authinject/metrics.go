package authinject

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what is done to get credentials. It is a prometheus.Collector;
// make it with NewMetrics and have it told by the Observe of Transports and
// Helpers.
type Metrics struct {
	label   func(host string) string
	tokens  *prometheus.CounterVec
	took    prometheus.Histogram
	helpers *prometheus.CounterVec
	ran     prometheus.Histogram
}

// NewMetrics returns metrics whose upstreams are named by label, which must have
// a bounded number of values whatever is pushed.
func NewMetrics(label func(host string) string) *Metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pushproxy_" + name, Help: help, Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		})
	}
	return &Metrics{
		label: label,
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pushproxy_token_requests_total", Help: "Requests to token servers, by the upstream that they were for, what was shown (grant) and how they ended.",
		}, []string{"upstream", "grant", "outcome"}),
		took: histogram("token_request_duration_seconds", "Time until a token server had answered."),
		helpers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pushproxy_helper_runs_total", Help: "Runs of credential helpers, by how they ended.",
		}, []string{"outcome"}),
		ran: histogram("helper_run_duration_seconds", "Time that a run of a credential helper took."),
	}
}

// Observe counts an event.
func (m *Metrics) Observe(e Event) {
	switch e.Kind {
	case EventToken:
		m.tokens.WithLabelValues(m.label(e.Host), e.Grant, e.Outcome).Inc()
		m.took.Observe(e.Took.Seconds())
	case EventHelper:
		m.helpers.WithLabelValues(e.Outcome).Inc()
		m.ran.Observe(e.Took.Seconds())
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.tokens, m.took, m.helpers, m.ran}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}
