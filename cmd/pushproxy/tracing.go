package main

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"pushproxy/status"
)

const (
	// tracingPath is where collectors take traces, below a URL without a path.
	tracingPath = "/v1/traces"
	// exportFor bounds one attempt to deliver spans, and flushFor the last one at
	// the end of the program.
	exportFor = 10 * time.Second
	flushFor  = 3 * time.Second
	// spansKept is how many spans wait for a collector that does not take them;
	// more are dropped.
	spansKept = 8192
	// complainEvery is how often a collector that does not answer is logged.
	complainEvery = 10 * time.Minute
	// attributeLength bounds each text in a span, in bytes.
	attributeLength = 1024
)

// TracingConfig says which pushes are traced, and to where.
type TracingConfig struct {
	Endpoint   string   `mapstructure:"endpoint"`
	Sample     float64  `mapstructure:"sample"`
	Principals []string `mapstructure:"principals"`
}

func (c TracingConfig) check(say sayFunc) {
	if !(c.Sample >= 0 && c.Sample <= 1) {
		say("tracing.sample: %v is not between 0 and 1", c.Sample)
	}
	for key, endpoint := range map[string]string{
		"tracing.endpoint": c.Endpoint, "$OTEL_EXPORTER_OTLP_ENDPOINT": os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"),
		"$OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
	} {
		u, err := url.Parse(endpoint)
		switch {
		case endpoint == "":
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			say("%s: it is not the URL of a collector such as http://127.0.0.1:4318", key)
		case u.User != nil || u.RawQuery != "":
			say("%s: it may hold no user name, password or query; put secrets into $OTEL_EXPORTER_OTLP_HEADERS", key)
		}
	}
	if slices.Contains(c.Principals, "") {
		say("tracing.principals: a name is empty")
	}
}

// url is where spans go; empty: there is no tracing.
func (c TracingConfig) url() string {
	if own := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"); c.Endpoint == "" && own != "" {
		return own
	}
	base := cmp.Or(c.Endpoint, os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	u, err := url.Parse(base)
	if base == "" || err != nil {
		return ""
	}
	if c.Endpoint == "" || strings.Trim(u.Path, "/") == "" {
		u = u.JoinPath(tracingPath)
	}
	return u.String()
}

// traced reports whether the traces of a principal's clients are taken up.
func (c TracingConfig) traced(principal string) bool { return slices.Contains(c.Principals, principal) }

// tracing delivers spans.
type tracing struct {
	provider *sdktrace.TracerProvider
	spans    *status.Spans
}

// openTracing readies the delivery of spans, or returns nil where there is none to
// be: then nothing runs and nothing is kept for it.
func openTracing(ctx context.Context, c TracingConfig, instance string, log *slog.Logger) (*tracing, error) {
	endpoint := c.url()
	if endpoint == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint), otlptracehttp.WithTimeout(exportFor),
		// A proxy for upstreams is none for the collector, and the environment's is
		// nobody's unless the configuration says so.
		otlptracehttp.WithProxy(func(*http.Request) (*url.URL, error) { return nil, nil }))
	if err != nil {
		return nil, err
	}
	who, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "pushproxy"), attribute.String("service.version", version()), attribute.String("service.instance.id", instance),
	), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = attributeLength
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(who),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Sample))),
		sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithBatcher(&patientExporter{SpanExporter: exporter, log: log, endpoint: endpoint}, sdktrace.WithMaxQueueSize(spansKept), sdktrace.WithExportTimeout(exportFor)),
	)
	return &tracing{provider: provider, spans: &status.Spans{Tracer: provider.Tracer("pushproxy")}}, nil
}

// follow has a tracker's pushes traced. A nil tracing traces nothing.
func (t *tracing) follow(tracker *status.Tracker) {
	if t != nil {
		tracker.Ended = t.spans.Ended
	}
}

// close delivers what there is, for a moment.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushFor)
	defer cancel()
	// What is not delivered by then is lost, as the log has said.
	_ = t.provider.Shutdown(ctx)
}

// patientExporter takes a collector that does not answer for what it is: worth a
// line in the log now and then.
type patientExporter struct {
	sdktrace.SpanExporter
	log      *slog.Logger
	endpoint string

	mu   sync.Mutex
	said time.Time
	lost int
}

// clipped bounds what a collector says.
func clipped(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// ExportSpans implements sdktrace.SpanExporter. It returns no error: the library
// would print each.
func (p *patientExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := p.SpanExporter.ExportSpans(ctx, spans)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.said = time.Time{}
		return nil
	}
	if p.lost += len(spans); p.said.IsZero() || time.Since(p.said) > complainEvery {
		p.log.Warn("traces are not delivered; pushes go on without them", "endpoint", p.endpoint, "spans_lost", p.lost, "error", clipped(err.Error()))
		p.said, p.lost = time.Now(), 0
	}
	return nil
}
