package tests

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

var pushIDs = regexp.MustCompile(`"id":"([^"]+)","principal"`)

// shown is everything that the program shows of itself, as its owner gets it by the socket: the page and that of each
// push, the JSON, the beginning of the stream and the metrics.
func (r *rig) shown(t *testing.T) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(r.config.DataDir, "admin.sock"))
	}}}
	var all strings.Builder
	get := func(path string, most int64) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, most))
		if err != nil || resp.StatusCode != http.StatusOK || len(body) == 0 {
			t.Fatalf("GET %s: %s, %d bytes, %v", path, resp.Status, len(body), err)
		}
		all.Write(body)
		return string(body)
	}
	const most = 16 << 20
	for _, path := range []string{"/", "/v1/pushes", "/v1/jobs", "/metrics"} {
		get(path, most)
	}
	snapshot := get("/v1/status", most)
	// The stream begins with the same, and has no end.
	get("/v1/events", int64(len(snapshot)))
	ids := pushIDs.FindAllStringSubmatch(snapshot, -1)
	if len(ids) == 0 {
		t.Errorf("no push is shown:\n%s", snapshot)
	}
	for _, id := range ids {
		get("/push/"+id[1], most)
		get("/v1/pushes/"+id[1], most)
	}
	return all.String()
}

// collector takes traces and keeps them as they came.
type collector struct {
	URL string

	mu  sync.Mutex
	got strings.Builder
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got.Write(body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *collector) traces() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.String()
}
