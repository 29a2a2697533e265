package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// watchPages opens n streams of changes as pages do, and reads them to the end of the test.
func watchPages(t testing.TB, address string, n int) {
	t.Helper()
	for range n {
		resp, err := http.Get(address + "/v1/events")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, resp.Body) }()
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
}

// stuckPages opens n streams of changes, and reads nothing of them.
func stuckPages(t *testing.T, address string, n int) {
	t.Helper()
	host := strings.TrimPrefix(address, "http://")
	for range n {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	}
}

func TestStuckWatchersDoNotHoldPushesOrOtherWatchers(t *testing.T) {
	t.Parallel()
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r, address := startWatched(t, reg.URL, nil)
	stuckPages(t, address, 40)
	resp, err := http.Get(address + "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	seen := make(chan string, 1)
	go func() {
		done := map[string]bool{}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 16<<20)
		for len(done) < 60 && lines.Scan() {
			if line := lines.Text(); strings.HasPrefix(line, "data: ") && strings.Contains(line, `"state":"done"`) {
				for i := range 60 {
					if strings.Contains(line, fmt.Sprintf(`"tags":["v%d"]`, i)) {
						done[fmt.Sprint(i)] = true
					}
				}
			}
		}
		seen <- fmt.Sprintf("%d pushes", len(done))
	}()
	for i := range 60 {
		if got := pushPlainly(t, r, "acme/many", fmt.Sprintf("v%d", i), []byte(fmt.Sprintf("%d %s", i, strings.Repeat("x", 10_000)))); got.StatusCode != http.StatusCreated {
			t.Fatalf("push %d: %v", i, got)
		}
	}
	select {
	case got := <-seen:
		wantEqual(t, "what a reader beside them saw", got, "60 pushes")
	case <-time.After(patience):
		t.Error("a reader beside stuck ones did not see all pushes")
	}
}

// BenchmarkPushWhileWatched pushes 32 MB in turns with 20 open pages and with none, and reports how the medians compare.
func BenchmarkPushWhileWatched(b *testing.B) {
	reg := startRegistry(b, parts.RegistryConfig{Htpasswd: true})
	type side struct {
		rig  *rig
		took []time.Duration
	}
	var sides [2]side
	for i := range sides {
		r, address := startWatched(b, reg.URL, func(r *rig) { r.program = pushproxyProgram(b, buildPlain) })
		sides[i].rig = r
		if i == 1 {
			watchPages(b, address, 20)
		}
	}
	layer, n := randomBytes(97, 32<<20), 0
	for b.Loop() {
		for i := range sides {
			s := &sides[(i+n)%2]
			layer[n%len(layer)]++ // never the same again
			began := time.Now()
			if got := pushPlainly(b, s.rig, fmt.Sprintf("bench/side%d", (i+n)%2), "v1", layer); got.StatusCode != http.StatusCreated {
				b.Fatalf("the push: %v", got)
			}
			s.took = append(s.took, time.Since(began))
		}
		n++
	}
	median := func(s side) float64 { return slices.Sorted(slices.Values(s.took))[len(s.took)/2].Seconds() }
	b.ReportMetric(median(sides[0])*1000, "ms/alone")
	b.ReportMetric(median(sides[1])*1000, "ms/watched")
	b.ReportMetric(median(sides[1])/median(sides[0]), "watched/alone")
}
