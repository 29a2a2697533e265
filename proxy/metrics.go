package proxy

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pushproxy/oci"
)

// Metrics counts what clients ask of the registry door. It is a
// prometheus.Collector; make it with NewMetrics. A nil Metrics counts nothing.
type Metrics struct {
	took     *prometheus.HistogramVec
	open     prometheus.Gauge
	received prometheus.Counter
	panics   prometheus.Counter
	hits     prometheus.Counter
	misses   prometheus.Counter
}

// kindNames are the kinds as metrics name them; unknown is what no kind is.
var kindNames = map[oci.Kind]string{
	0:                      "unknown",
	oci.KindPing:           "ping",
	oci.KindBlobHead:       "blob-head",
	oci.KindBlobGet:        "blob-get",
	oci.KindBlobDelete:     "blob-delete",
	oci.KindMount:          "mount",
	oci.KindUploadStart:    "upload-start",
	oci.KindUploadWhole:    "upload-whole",
	oci.KindUploadStatus:   "upload-status",
	oci.KindUploadChunk:    "upload-chunk",
	oci.KindUploadFinish:   "upload-finish",
	oci.KindUploadCancel:   "upload-cancel",
	oci.KindManifestHead:   "manifest-head",
	oci.KindManifestGet:    "manifest-get",
	oci.KindManifestPut:    "manifest-put",
	oci.KindManifestDelete: "manifest-delete",
	oci.KindTags:           "tags",
	oci.KindReferrers:      "referrers",
}

// NewMetrics returns metrics that nothing was counted in.
func NewMetrics() *Metrics {
	return &Metrics{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pushproxy_request_duration_seconds", Help: "Time until a client's request was answered, by what it asked for and the class of the answer (none: it broke off).",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 2.5, 5, 10, 30, 60, 300, 600},
		}, []string{"kind", "code_class"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pushproxy_requests_in_flight", Help: "Requests of clients that are being answered."}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pushproxy_received_bytes_total", Help: "Bytes of request bodies received from clients."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "pushproxy_panics_total", Help: "Requests that met a fault of pushproxy's own."}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pushproxy_cache_hits_total", Help: "Blobs that a client looked for, read or wanted mounted and that the cache had for it."}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pushproxy_cache_misses_total", Help: "Blobs that a client looked for, read or wanted mounted and that the cache did not have for it."}),
	}
}

// begin counts a request and what comes of its body; the function that it
// returns counts the answer.
func (m *Metrics) begin(a *answer, r *http.Request) (end func()) {
	if m == nil {
		return func() {}
	}
	began := time.Now()
	m.open.Inc()
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &countedBody{r.Body, m.received}
	}
	return func() {
		m.open.Dec()
		m.took.WithLabelValues(kindNames[a.kind], codeClass(a.status)).Observe(time.Since(began).Seconds())
	}
}

// panicked counts a fault.
func (m *Metrics) panicked() {
	if m != nil {
		m.panics.Inc()
	}
}

// looked counts a look for a blob in the cache.
func (m *Metrics) looked(found bool, err error) {
	switch {
	case m == nil || err != nil:
	case found:
		m.hits.Inc()
	default:
		m.misses.Inc()
	}
}

// countedBody counts a request's body.
type countedBody struct {
	io.ReadCloser
	received prometheus.Counter
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.received.Add(float64(n))
	return n, err
}

// codeClass is a status as it is counted: 2xx, 4xx … or none.
func codeClass(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.took, m.open, m.received, m.panics, m.hits, m.misses}
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
