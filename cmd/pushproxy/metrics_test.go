//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"pushproxy/upstream/upstreamtest"
)

// scrape asks the running program for its metrics.
func (s *served) scrape() ([]byte, map[string]*dto.MetricFamily) {
	s.t.Helper()
	response, err := overSocket(s.dir).ask(s.t.Context(), "GET", "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	return text, families
}

// value returns the sum of a metric's samples whose labels are these.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) (sum float64) {
	for _, m := range families[name].GetMetric() {
		has := func(label, want string) bool {
			return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == label && l.GetValue() == want })
		}
		match := true
		for i := 0; i < len(labels); i += 2 {
			match = match && has(labels[i], labels[i+1])
		}
		if match {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// login makes the upstream ask for a token, which takes a password that a
// credential helper has.
func (s *served) login() {
	s.t.Helper()
	s.reg.Auth = &upstreamtest.Auth{Username: "bob", Password: "c4n4ry-s3cret", Bearer: true}
	home, bin := os.Getenv("HOME"), filepath.Join(s.t.TempDir(), "bin")
	for dir, file := range map[string]string{bin: "docker-credential-keys", filepath.Join(home, ".docker"): "config.json"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
		text := `{"credHelpers":{"registry.test":"keys"}}`
		if dir == bin {
			text = "#!/bin/sh\necho '{\"Username\":\"bob\",\"Secret\":\"c4n4ry-s3cret\"}'\n"
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// work does at least one of everything that is counted.
func (s *served) work() {
	s.t.Helper()
	s.login()
	s.push("acme/app", "v1", "one")
	for _, content := range []string{"one", "nothing that there is"} {
		s.send("HEAD", "/v2/registry.test/acme/app/blobs/"+digest.FromString(content).String(), "", nil)
	}
	s.push("acme/app", "v1", "one")
	s.push("acme/other", "v1", "one")
	large := strings.Repeat("a layer ", 20<<10)
	s.reg.AddBlob("acme/third", []byte(large))
	s.push("acme/third", "v1", large)
	s.reg.Inject(upstreamtest.Fault{Method: "PUT", Path: "/blobs/", Status: 503}, upstreamtest.Fault{Method: "POST", Reset: true},
		upstreamtest.Fault{Method: "PUT", Path: "/manifests/", Status: 429})
	s.push("acme/app", "v2", "two")
	s.push("queued/app", "v1", "three")
	s.must("wait", "registry.test/queued/app:v1")
}

func TestMetricsCountWhatHappened(t *testing.T) {
	s := serveQueue(t)
	s.work()
	text, f := s.scrape()
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "pushproxy_blobs_total", []string{"how", "mounted"}},
		{float64(len("one")), "pushproxy_blob_bytes_total", []string{"how", "mounted"}},
		{3, "pushproxy_blobs_total", []string{"upstream", "registry.test", "how", "uploaded"}},
		{float64(len("one" + "two" + "three")), "pushproxy_blob_bytes_total", []string{"how", "uploaded"}},
		{1, "pushproxy_push_duration_seconds", []string{"result", "unchanged"}},
		{5, "pushproxy_push_duration_seconds", []string{"result", "done"}},
		{1, "pushproxy_upstream_failures_total", []string{"fault", "broken"}},
		{1, "pushproxy_upstream_rate_limited_total", nil},
		{3, "pushproxy_upstream_retries_total", nil},
		{1, "pushproxy_upstream_requests_total", []string{"op", "manifest-put", "code_class", "4xx"}},
		{1, "pushproxy_upstream_requests_total", []string{"op", "start", "code_class", "none"}},
		{6, "pushproxy_request_duration_seconds", []string{"kind", "manifest-put", "code_class", "2xx"}},
		{1, "pushproxy_helper_runs_total", []string{"outcome", "ok"}},
		{1, "pushproxy_upstream_up", nil},
		{4, "pushproxy_cache_blobs", nil},
		{4, "pushproxy_cache_stored_blobs_total", nil},
		{0, "pushproxy_cache_read_only", nil},
		{0, "pushproxy_queue_jobs", nil},
		{1, "pushproxy_build_info", nil},
		{1, "pushproxy_cache_hits_total", nil},
		{1, "pushproxy_cache_misses_total", nil},
	} {
		if got := value(f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	var asked float64
	for _, q := range s.reg.Log() {
		if q.Path != "/token" {
			asked++
		}
	}
	if got := value(f, "pushproxy_upstream_requests_total"); got != asked {
		t.Errorf("%v requests were counted, the upstream saw %v", got, asked)
	}
	for _, name := range []string{"pushproxy_token_requests_total", "pushproxy_received_bytes_total",
		"pushproxy_cache_disk_bytes", "go_goroutines", "process_open_fds"} {
		if value(f, name) <= 0 {
			t.Errorf("%s is %v", name, value(f, name))
		}
	}
	if bytes.Contains(text, []byte("c4n4ry")) || bytes.Contains(text, []byte("acme")) || bytes.Contains(text, []byte("sha256")) {
		t.Error("the metrics name what was pushed, or with what")
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

func TestTheSeriesDoNotGrowWithWhatIsPushed(t *testing.T) {
	s := serveQueue(t)
	s.work()
	series := func() (n int) {
		_, families := s.scrape()
		for name, f := range families {
			if strings.HasPrefix(name, "pushproxy_") {
				n += len(f.GetMetric())
			}
		}
		return n
	}
	before := series()
	var pushing sync.WaitGroup
	numbers := make(chan int)
	for range 16 {
		pushing.Go(func() {
			for i := range numbers {
				// Each is another repository, tag and blob, and some of it nonsense.
				name := fmt.Sprintf("hostile-%d/app", i)
				s.push(name, fmt.Sprintf("t%d", i), fmt.Sprint("content ", i))
				s.send("GET", fmt.Sprintf("/v2/registry-%d.test/app/tags/list", i), "text/plain", nil)
				s.send("PUT", "/v2/registry.test/"+name+"/manifests/"+fmt.Sprint("..", i), "text/plain", []byte("{"))
			}
		})
	}
	for i := range 1000 {
		numbers <- i
	}
	close(numbers)
	pushing.Wait()
	if after := series(); after > before+8 {
		t.Errorf("%d series became %d", before, after)
	} else if n := len(s.reg.Log()); n < 3000 {
		t.Errorf("the upstream saw only %d requests", n)
	}
}

func TestUpstreamsThatNobodyConfiguredAreNamedUpToABound(t *testing.T) {
	t.Parallel()
	h := newHostLabels(Config{Upstreams: []UpstreamConfig{{Host: "registry.test"}}})
	names := map[string]bool{}
	for i := range 1000 {
		names[h.label(fmt.Sprintf("host-%d.test", i))] = true
	}
	if len(names) != namedUpstreams+1 || !names[otherUpstream] || h.label("registry.test") != "registry.test" || h.label("host-0.test") != "host-0.test" {
		t.Errorf("%d names: %v", len(names), slices.Collect(maps.Keys(names)))
	}
}
