package upstream

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the exchanges with all upstreams. It is a prometheus.Collector;
// make it with NewMetrics and have it told by the clients' Observe.
type Metrics struct {
	label    func(host string) string
	up       *prometheus.GaugeVec
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	sent     *prometheus.CounterVec
	received *prometheus.CounterVec
	failures *prometheus.CounterVec
	retries  *prometheus.CounterVec
	limited  *prometheus.CounterVec
}

// NewMetrics returns metrics whose upstreams are named by label, which must have
// a bounded number of values whatever is pushed.
func NewMetrics(label func(host string) string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pushproxy_upstream_" + name, Help: help}, append([]string{"upstream"}, labels...))
	}
	return &Metrics{
		label: label,
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pushproxy_upstream_up", Help: "Whether the last request to the upstream was answered, whatever the answer.",
		}, []string{"upstream"}),
		requests: counter("requests_total", "Requests that went to an upstream, by what they were for and the class of the answer (none: no answer).", "op", "code_class"),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pushproxy_upstream_request_duration_seconds", Help: "Time until an upstream had answered a request, its body included.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 600},
		}, []string{"upstream", "op"}),
		sent:     counter("sent_bytes_total", "Bytes of request bodies sent to an upstream, those that were sent again included."),
		received: counter("received_bytes_total", "Bytes of answers from an upstream."),
		failures: counter("failures_total", "Requests that an upstream did not answer whole, by the class of the fault.", "fault"),
		retries:  counter("retries_total", "Requests to an upstream that were tried again, each time they were."),
		limited:  counter("rate_limited_total", "Answers with which an upstream asked for fewer requests (429)."),
	}
}

// Observe counts an exchange.
func (m *Metrics) Observe(x Exchange) {
	host := m.label(x.Host)
	m.requests.WithLabelValues(host, string(x.Op), codeClass(x.Status)).Inc()
	m.took.WithLabelValues(host, string(x.Op)).Observe(x.Took.Seconds())
	m.sent.WithLabelValues(host).Add(float64(x.Sent))
	m.received.WithLabelValues(host).Add(float64(x.Received))
	switch {
	case x.Status != 0:
		m.up.WithLabelValues(host).Set(1)
	case x.Failure != FailedCanceled:
		m.up.WithLabelValues(host).Set(0)
	}
	if x.Failure != "" {
		m.failures.WithLabelValues(host, string(x.Failure)).Inc()
	}
	if x.Attempt > 1 {
		m.retries.WithLabelValues(host).Inc()
	}
	if x.Status == http.StatusTooManyRequests {
		m.limited.WithLabelValues(host).Inc()
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.up, m.requests, m.took, m.sent, m.received, m.failures, m.retries, m.limited}
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

// codeClass is a status as it is counted: 2xx, 4xx … or none.
func codeClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}
