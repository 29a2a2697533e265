//go:build unix

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel"
	otlp "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"pushproxy/oci"
	"pushproxy/status"
	"pushproxy/upstream/upstreamtest"
)

// receiver is an OpenTelemetry collector.
type receiver struct {
	url string

	mu    sync.Mutex
	raw   []byte
	spans []*trace.Span
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var in otlp.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &in)
		}
		if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", req.URL, req.Header.Get("Content-Type"), err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.raw = append(r.raw, body...)
		for _, resource := range in.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				r.spans = append(r.spans, scope.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// named returns the spans of a name.
func (r *receiver) named(name string) (found []*trace.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// attr is a span's attribute as text; the first of a list.
func attr(s *trace.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key != key {
			continue
		}
		if list := a.Value.GetArrayValue().GetValues(); len(list) > 0 {
			return list[0].GetStringValue()
		}
		if n := a.Value.GetIntValue(); n != 0 {
			return fmt.Sprint(n)
		}
		return a.Value.GetStringValue()
	}
	return ""
}

// traced is a running pushproxy whose pushes are traced.
func traced(t *testing.T, endpoint, more string) *served {
	t.Helper()
	s := serveQueue(t)
	s.stop()
	text, err := os.ReadFile(s.config)
	if err == nil {
		err = os.WriteFile(s.config, fmt.Appendf(text, "tracing: {endpoint: %q%s}\n", endpoint, more), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

func TestAPushIsATraceOfItsBlobsAndRequests(t *testing.T) {
	r := newReceiver(t)
	s := traced(t, r.url, "")
	s.login()
	s.push("acme/app", "v1", "one")
	s.stop()
	pushes := r.named("push")
	if len(pushes) != 1 {
		t.Fatalf("%d pushes in %d spans", len(pushes), len(r.spans))
	}
	root := pushes[0]
	for key, want := range map[string]string{"repository": "acme/app", "upstream": "registry.test", "tags": "v1", "principal": "local", "state": "done"} {
		if got := attr(root, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	id := attr(root, "push")
	audit, err := os.ReadFile(filepath.Join(s.dir, "audit.log"))
	if err != nil || id == "" || !bytes.Contains(audit, []byte(`"push":"`+id+`"`)) {
		t.Errorf("the audit log does not have the push %q: %v\n%s", id, err, audit)
	}
	blobs := r.named("blob")
	if len(blobs) != 1 || attr(blobs[0], "digest") != digest.FromString("one").String() || !bytes.Equal(blobs[0].ParentSpanId, root.SpanId) {
		t.Fatalf("blobs: %v", blobs)
	}
	requests, below := 0, 0
	for _, span := range r.spans {
		if !bytes.Equal(span.TraceId, root.TraceId) || attr(span, "push") != id {
			t.Errorf("%s is of another trace, or push %q", span.Name, attr(span, "push"))
		}
		if span.StartTimeUnixNano < root.StartTimeUnixNano || span.EndTimeUnixNano < span.StartTimeUnixNano {
			t.Errorf("%s is from %d to %d, the push from %d", span.Name, span.StartTimeUnixNano, span.EndTimeUnixNano, root.StartTimeUnixNano)
		}
		if span.Kind == trace.Span_SPAN_KIND_CLIENT && attr(span, "http.response.status_code") != "" {
			requests++
		}
		if bytes.Equal(span.ParentSpanId, blobs[0].SpanId) {
			below++
		}
	}
	if saw := s.reg.Requests(); requests != len(saw) || below == 0 {
		t.Errorf("%d requests are in the trace, %d of them below the blob; the upstream saw %q", requests, below, saw)
	}
	if bytes.Contains(r.raw, []byte("c4n4ry")) || bytes.Contains(r.raw, []byte("token-1")) || bytes.Contains(r.raw, []byte("digest=")) {
		t.Error("the trace has a secret or a query in it")
	}
}

const (
	clientTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientParent = "00-" + clientTrace + "-b7ad6b7169203331-01"
)

func TestTracesOfClientsAreTakenUpOnlyWhereTheyMayBe(t *testing.T) {
	for _, c := range []struct {
		name, config, header string
		want                 bool
	}{
		{"of principals that are named", ", principals: [local]", clientParent, true},
		{"of others they are not", ", principals: [build]", clientParent, false},
		{"nor of anybody where nobody is named", "", clientParent, false},
		{"nor is what is no such header", ", principals: [local]", "00-nonsense", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t)
			s := traced(t, r.url, c.config)
			s.header = http.Header{"Traceparent": {c.header}, "Tracestate": {"a=b"}, "Baggage": {"c=d"}}
			s.push("acme/app", "v1", "one")
			s.stop()
			pushes := r.named("push")
			if len(pushes) != 1 || (hex.EncodeToString(pushes[0].TraceId) == clientTrace) != c.want {
				t.Errorf("%d pushes, %v", len(pushes), pushes)
			}
			for _, q := range s.reg.Log() {
				for _, name := range []string{"Traceparent", "Tracestate", "Baggage"} {
					if q.Header.Get(name) != "" {
						t.Errorf("%s went upstream with %s", name, q)
					}
				}
			}
		})
	}
}

func TestABlobThatTwoPushesWaitForIsOneSpanAndALink(t *testing.T) {
	r := newReceiver(t)
	s := traced(t, r.url, "")
	content := "a blob that takes a while"
	d := digest.FromString(content)
	s.reg.Inject(upstreamtest.Fault{Method: "PUT", Path: "/blobs/", Delay: time.Second})
	s.send("POST", "/v2/registry.test/acme/app/blobs/uploads/?digest="+d.String(), "application/octet-stream", []byte(content))
	var pushing sync.WaitGroup
	for _, tag := range []string{"v1", "v2"} {
		pushing.Go(func() {
			raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":%d},"layers":[],"annotations":{"tag":%q}}`, oci.MediaTypeOCIManifest, d, len(content), tag)
			if answer := s.send("PUT", "/v2/registry.test/acme/app/manifests/"+tag, oci.MediaTypeOCIManifest, []byte(raw)); answer.StatusCode != 201 {
				t.Errorf("%s: %s", tag, answer.Status)
			}
		})
	}
	pushing.Wait()
	s.stop()
	var own, linked []*trace.Span
	for _, span := range r.named("blob") {
		if len(span.Links) > 0 {
			linked = append(linked, span)
		} else {
			own = append(own, span)
		}
	}
	if len(own) != 1 || len(linked) != 1 || !bytes.Equal(linked[0].Links[0].SpanId, own[0].SpanId) || bytes.Equal(own[0].TraceId, linked[0].TraceId) {
		t.Fatalf("%d spans of the blob, %d that link to one: %v", len(own), len(linked), r.named("blob"))
	}
	if uploads := len(r.named("upload")); uploads != 1 {
		t.Errorf("the upload is shown %d times", uploads)
	}
}

func TestACollectorThatIsDeadCostsALineInTheLog(t *testing.T) {
	clean(t)
	// What the library is told of, it prints.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Errorf("the library says: %v", err) }))
	defer otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, address := range map[string]string{"nobody listens": gone.Addr().String(), "nobody answers": hanging.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			var log lines
			traces, err := openTracing(t.Context(), TracingConfig{Endpoint: "http://" + address, Sample: 1}, "test", slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			push := status.Push{ID: "p", State: status.Done, Started: time.Now(), Finished: time.Now()}
			began := time.Now()
			for range 4 * spansKept {
				traces.spans.Ended(push, "")
			}
			// Whoever waited for the collector would wait for an export of each 512.
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%d pushes took %v to trace", 4*spansKept, took)
			}
			began = time.Now()
			traces.close()
			if took := time.Since(began); took > flushFor+2*time.Second {
				t.Errorf("the end took %v", took)
			}
			if n := strings.Count(log.String(), "\n"); n > 1 {
				t.Errorf("%d lines in the log:\n%s", n, &log)
			}
		})
	}
}

// lines is a log that may be written to while it is read.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestADeadCollectorDoesNotHoldUpAPush(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := traced(t, "http://"+l.Addr().String(), "")
	began := time.Now()
	s.push("acme/app", "v1", "one")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the push took %v", took)
	}
}

func TestWithoutAnEndpointNothingRunsForTraces(t *testing.T) {
	// What other tests gave up on may still run.
	const sdk = "opentelemetry.io/otel/sdk"
	stacks := func() string {
		text := make([]byte, 4<<20)
		return string(text[:runtime.Stack(text, true)])
	}
	before := strings.Count(stacks(), sdk)
	s := serveQueue(t)
	s.push("acme/app", "v1", "one")
	if text := stacks(); strings.Count(text, sdk) > before {
		t.Errorf("something runs:\n%s", text)
	}
	traces, err := openTracing(t.Context(), TracingConfig{Sample: 1}, "test", nil)
	if traces != nil || err != nil {
		t.Errorf("%v, %v", traces, err)
	}
	var tracker status.Tracker
	traces.follow(&tracker)
	if tracker.Ended != nil {
		t.Error("pushes are kept for traces")
	}
}

func TestWhereTracesGo(t *testing.T) {
	for _, c := range []struct{ name, endpoint, base, traces, want string }{
		{"nowhere", "", "", "", ""},
		{"to the endpoint, with the standard path", "http://collector.test:4318", "http://other.test", "http://other.test/x", "http://collector.test:4318/v1/traces"},
		{"to the endpoint's own path", "https://collector.test/in", "", "", "https://collector.test/in"},
		{"to the environment's collector", "", "http://collector.test:4318/otel/", "", "http://collector.test:4318/otel/v1/traces"},
		{"to the environment's collector of traces", "", "http://other.test", "http://collector.test/in", "http://collector.test/in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.base)
			t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", c.traces)
			if got := (TracingConfig{Endpoint: c.endpoint}).url(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestTracingKeysAreChecked(t *testing.T) {
	clean(t)
	for _, c := range []struct{ name, yaml, want string }{
		{"a part of more than all", "tracing: {sample: 1.5}", "tracing.sample: 1.5 is not between 0 and 1"},
		{"an endpoint that is no URL", "tracing: {endpoint: 'collector:4317'}", "tracing.endpoint: it is not the URL of a collector"},
		{"an endpoint with a password", "tracing: {endpoint: 'http://u:c4n4ry@collector.test'}", "tracing.endpoint: it may hold no user name, password"},
		{"a name that is empty", "tracing: {principals: ['']}", "tracing.principals"},
		{"a key that there is not", "tracing: {url: x}", "tracing.url: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.yaml)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector.test")
	if _, err := load(t, ""); err == nil || !strings.Contains(err.Error(), "$OTEL_EXPORTER_OTLP_ENDPOINT") {
		t.Errorf("a bad variable: %v", err)
	}
}
