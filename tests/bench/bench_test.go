package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/bench/report"
)

func testOptions() options {
	return options{rounds: 5, storage: "badger,files", rtt: 50 * time.Millisecond, mbit: 100}
}

// everything returns all scenarios, whether or not their clients are there.
func everything(b *bench) []scenario {
	all := append(b.local(), b.floor(), b.stall("docker"), b.stall("containerd"))
	for _, name := range clientNames() {
		all = append(all, b.pushes(name, true), b.pushes(name, false))
	}
	return all
}

func TestEveryRowIsMeasuredOnBothItsSides(t *testing.T) {
	t.Parallel()
	b := &bench{options: testOptions()}
	sides := map[string][]string{}
	for _, sc := range everything(b) {
		for _, st := range sc.steps {
			if sides[st.name] != nil {
				t.Errorf("two steps are called %q", st.name)
			}
			for _, sd := range sc.sides {
				sides[st.name] = append(sides[st.name], sd.name)
			}
		}
	}
	keys := map[string]bool{}
	for _, r := range allRows(b.options) {
		if keys[r.key] {
			t.Errorf("two rows are called %q", r.key)
		}
		keys[r.key] = true
		if !slices.Contains(sides[r.step], r.ours) || r.base != "" && !slices.Contains(sides[r.step], r.base) {
			t.Errorf("row %s compares %q with %q, step %q is measured for %q", r.key, r.ours, r.base, r.step, sides[r.step])
		}
	}
}

func TestRowsAreChosenByKeyOrBeginning(t *testing.T) {
	t.Parallel()
	all := allRows(testOptions())
	for _, c := range []struct {
		name, list string
		want       []string
		wrong      bool
	}{
		{"a key is one row", "repeat", []string{"repeat"}, false},
		{"a beginning is several", "loopback", []string{"loopback-docker", "loopback-skopeo", "loopback-crane", "loopback-containerd"}, false},
		{"the order is that of the table", "other,floor", []string{"floor", "other"}, false},
		{"a part of a word is not a beginning", "loop", nil, true},
		{"a word without a row is an error", "floor,nothing", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rows, err := chosen(all, c.list)
			var keys []string
			for _, r := range rows {
				keys = append(keys, r.key)
			}
			if (err != nil) != c.wrong || !slices.Equal(keys, c.want) {
				t.Errorf("got %q, %v, want %q", keys, err, c.want)
			}
		})
	}
}

func TestSamplesBecomeRows(t *testing.T) {
	t.Parallel()
	b := &bench{options: testOptions(), samples: []sample{
		{step: "floor", side: "sink", seconds: 4},
		{step: "docker line first", side: "direct", seconds: 5, requests: 39, sent: 42e6, bytes: 64 << 20},
		{step: "docker line first", side: "pushproxy", seconds: 4, requests: 28, sent: 41e6, cpu: 0.125, bytes: 64 << 20, anonymous: 50 << 20, watched: true},
		{step: "docker line first", side: "pushproxy", err: errors.New("refused")},
	}}
	rows := b.results(allRows(b.options))
	if len(rows) != 2 {
		t.Fatalf("got %d rows, want the two that were measured", len(rows))
	}
	got := rows[1]
	if got.Key != "first-docker" || got.Ratio() != 0.8 || got.Floor != 4 || got.Ours.Failed != 1 || !got.Missed() {
		t.Errorf("the row is %+v", got)
	}
	cost := got.Ours.Cost
	if report.Median(cost.Requests) != 28 || report.Median(cost.Megabytes) != 41 || report.Median(cost.CPU) != 2 || report.Median(cost.Anonymous) != 50 {
		t.Errorf("its cost is %+v", cost)
	}
	if len(got.Base.Cost.CPU) != 0 || report.Median(got.Base.Cost.Requests) != 39 {
		t.Errorf("the other way's cost is %+v", got.Base.Cost)
	}
}

func TestProcessorTimeIsReadBehindTheName(t *testing.T) {
	t.Parallel()
	rest := " S 1 1 1 0 -1 4194304 100 200 0 0 250 150 7 8 20 0 9 0 100 1000 50"
	for _, c := range []struct {
		name, stat string
		want       float64
	}{
		{"of an ordinary name", "12 (pushproxy)" + rest, 4},
		{"of a name with brackets and spaces", "12 (a) b (c d)" + rest, 4},
		{"of something else it is nothing", "12 (x) S 1", 0},
		{"of nothing it is nothing", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := parseProcessorTime(c.stat); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestAWatchedProcessHasTimeAndMemory(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("needs /proc")
	}
	w := watchProcess(os.Getpid())
	for start := processorTime(os.Getpid()); processorTime(os.Getpid()) < start+3.0/ticks; {
		_ = sha256.Sum256(make([]byte, 1<<20))
	}
	if cpu, peak := w.stop(); cpu < 2.0/ticks || peak < 1<<20 {
		t.Errorf("this process used %v s and %d bytes, it says", cpu, peak)
	}
}

func TestBlobsAreWhatTheirDigestsSay(t *testing.T) {
	t.Parallel()
	blobs, err := newBlobs(3, 40<<10)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, b := range blobs {
		for range 2 { // a blob can be read again
			h := sha256.New()
			n, err := io.Copy(h, b.open())
			if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); err != nil || n != b.size || got != b.digest {
				t.Errorf("a blob of %d bytes and %s reads as %d and %s, %v", b.size, b.digest, n, got, err)
			}
		}
		seen[b.digest] = true
	}
	if len(seen) != 3 {
		t.Error("two blobs are the same")
	}
}

func TestUploadsReachTheSink(t *testing.T) {
	t.Parallel()
	target, err := startSink()
	if err != nil {
		t.Fatal(err)
	}
	defer target.stop()
	blobs, err := newBlobs(5, 10<<10)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{url: "http://" + target.address(), target: target}
	defer s.close()
	for _, c := range []struct {
		name     string
		requests int
		send     func(context.Context) error
	}{
		{"by POST, PATCH and PUT", 15, func(ctx context.Context) error { return s.wire(2).upload(ctx, "acme/app", blobs) }},
		{"by POST and PUT", 10, func(ctx context.Context) error { return s.wire(2).put(ctx, "acme/app", blobs) }},
		{"and a manifest", 1, func(ctx context.Context) error { return s.wire(1).manifest(ctx, "acme/app", "1", blobs) }},
	} {
		before := target.requests()
		if err := c.send(t.Context()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := target.requests() - before; got != c.requests {
			t.Errorf("%s: %d requests, want %d", c.name, got, c.requests)
		}
	}
	for name, err := range map[string]error{
		"a HEAD": s.wire(1).head(t.Context(), "acme/app", blobs, 1),
		"a pull": s.wire(1).pull(t.Context(), "acme/app", blobs),
		"verify": s.verify(t.Context(), "acme/app", "1"),
	} {
		if err == nil {
			t.Errorf("%s found what the sink does not keep", name)
		}
	}
}

func TestImagesHaveNewBytesAndGrowByOneLayer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := newImage(dir, "image1:1", []int{1000, 2000})
	if err != nil {
		t.Fatal(err)
	}
	second, err := newImage(dir, "image2:1", []int{1000, 2000})
	if err != nil {
		t.Fatal(err)
	}
	grown, err := first.grow(dir, "image1:2", 500)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := blobsOf(t, first), blobsOf(t, second), blobsOf(t, grown)
	if n := len(common(a, b)); n != 0 {
		t.Errorf("two images have %d blobs in common", n)
	}
	if n := len(common(a, c)); n != 2 || len(c) != len(a)+1 {
		t.Errorf("the grown image has %d blobs, %d of them the first one's, want %d and 2", len(c), n, len(a)+1)
	}
	for _, img := range []*image{first, grown} {
		for _, name := range blobsOf(t, img) {
			content, err := os.ReadFile(filepath.Join(img.layout, "blobs", "sha256", name))
			if err != nil || digestOf(content) != "sha256:"+name {
				t.Errorf("blob %s is another one, %v", name, err)
			}
		}
	}
}

func blobsOf(t *testing.T, img *image) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(img.layout, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func common(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

func TestAReportIsWrittenWithItsPlot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "numbers.md")
	if err := write(report.Report{Facts: []report.Fact{{Name: "machine", Value: "any"}}}, path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "(numbers.svg)") {
		t.Errorf("the document does not show its plot, %v:\n%s", err, text)
	}
	if _, err := os.Stat(strings.TrimSuffix(path, ".md") + ".svg"); err != nil {
		t.Error(err)
	}
}

func TestTheSinkKeepsNothing(t *testing.T) {
	t.Parallel()
	target, err := startSink()
	if err != nil {
		t.Fatal(err)
	}
	defer target.stop()
	for path, want := range map[string]int{"/v2/": http.StatusOK, "/v2/acme/app/blobs/sha256:00": http.StatusNotFound} {
		resp, err := http.Get("http://" + target.address() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s is answered %d, want %d", path, resp.StatusCode, want)
		}
	}
}
