package forward

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pushproxy/metadata"
)

// Metrics counts pushes and blobs, and looks at uploads and the queue when it is
// asked. It is a prometheus.Collector; make it with NewMetrics, and set Forward
// and, where there is one, Queue before its first use. It belongs to one
// Forwarder.
type Metrics struct {
	Forward *Forwarder
	Queue   *Queue

	label  func(host string) string
	pushes *prometheus.HistogramVec
	blobs  *prometheus.CounterVec
	bytes  *prometheus.CounterVec
	faults prometheus.Counter

	slots, waiting, limit *prometheus.Desc
	jobs, oldest          *prometheus.Desc
}

// The results of a push.
const (
	resultDone      = "done"
	resultUnchanged = "unchanged" // the upstream had it under that reference
	resultFailed    = "failed"
	resultStopped   = "stopped" // its client left, or pushproxy is stopping
)

// jobStates are the states that are shown, also those without a job.
var jobStates = []string{metadata.JobQueued, metadata.JobRunning, metadata.JobNeedsAuth, metadata.JobParked}

// NewMetrics returns metrics whose upstreams are named by label, which must have
// a bounded number of values whatever is pushed.
func NewMetrics(label func(host string) string) *Metrics {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("pushproxy_"+name, help, labels, nil)
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pushproxy_" + name, Help: help}, []string{"upstream", "how"})
	}
	return &Metrics{
		label: label,
		pushes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pushproxy_push_duration_seconds", Help: "Time from a manifest until the upstream held all of it or the attempt ended otherwise.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600},
		}, []string{"upstream", "result"}),
		blobs:   counter("blobs_total", "Blobs that an upstream was made to hold, by how: skipped (it was there), mounted or uploaded."),
		bytes:   counter("blob_bytes_total", "Bytes of the blobs that an upstream was made to hold, by how: skipped (it was there), mounted or uploaded."),
		faults:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pushproxy_faults_total", Help: "Panics that were caught while something was forwarded; the log says where."}),
		slots:   describe("upload_slots_used", "Uploads to an upstream that are under way.", "upstream"),
		waiting: describe("upload_slots_waiting", "Uploads to an upstream that wait for a place.", "upstream"),
		limit:   describe("upload_slots_limit", "Uploads that an upstream gets at once now; fewer after it asked for fewer requests.", "upstream"),
		jobs:    describe("queue_jobs", "Queued pushes, by their state.", "state"),
		oldest:  describe("queue_oldest_age_seconds", "Age of the oldest queued push of a state; 0: there is none.", "state"),
	}
}

// pushed counts the end of a push of one manifest by a client or the queue.
func (m *Metrics) pushed(host string, began time.Time, result Result, err error) {
	if m == nil {
		return
	}
	how := resultDone
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errAbandoned), errors.Is(err, ErrClosed), errors.Is(err, errDropped):
		how = resultStopped
	case err != nil:
		how = resultFailed
	case result.Unchanged:
		how = resultUnchanged
	}
	m.pushes.WithLabelValues(m.label(host), how).Observe(time.Since(began).Seconds())
}

// brought counts a blob that an upstream was made to hold.
func (m *Metrics) brought(host string, o Outcome) {
	if m == nil {
		return
	}
	m.blobs.WithLabelValues(m.label(host), string(o.How)).Inc()
	m.bytes.WithLabelValues(m.label(host), string(o.How)).Add(float64(max(0, o.Size)))
}

// faulted counts a panic that was caught.
func (m *Metrics) faulted() {
	if m != nil {
		m.faults.Inc()
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.pushes.Describe(ch)
	m.blobs.Describe(ch)
	m.bytes.Describe(ch)
	m.faults.Describe(ch)
	for _, d := range []*prometheus.Desc{m.slots, m.waiting, m.limit, m.jobs, m.oldest} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.pushes.Collect(ch)
	m.blobs.Collect(ch)
	m.bytes.Collect(ch)
	m.faults.Collect(ch)
	gauge := func(d *prometheus.Desc, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	for host, l := range m.lanes() {
		gauge(m.slots, l.used, host)
		gauge(m.waiting, l.waiting, host)
		gauge(m.limit, l.limit, host)
	}
	if m.Queue == nil {
		return
	}
	count, oldest, now := map[string]float64{}, map[string]time.Duration{}, time.Now()
	for _, j := range m.Queue.Jobs() {
		count[j.State]++
		oldest[j.State] = max(oldest[j.State], now.Sub(j.Created))
	}
	for _, state := range jobStates {
		gauge(m.jobs, count[state], state)
		gauge(m.oldest, oldest[state].Seconds(), state)
	}
}

// laneCount is what the lanes of the upstreams of one name have in all.
type laneCount struct{ used, waiting, limit float64 }

func (m *Metrics) lanes() map[string]laneCount {
	m.Forward.mu.Lock()
	lanes := make(map[string]*lane, len(m.Forward.lanes))
	for host, l := range m.Forward.lanes {
		lanes[host] = l
	}
	m.Forward.mu.Unlock()
	counts := map[string]laneCount{}
	for host, l := range lanes {
		c := counts[m.label(host)]
		l.mu.Lock()
		c.used, c.waiting, c.limit = c.used+float64(l.busy), c.waiting+float64(len(l.waiting)), c.limit+float64(l.limit)
		l.mu.Unlock()
		counts[m.label(host)] = c
	}
	return counts
}
