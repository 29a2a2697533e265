//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/status"
	"pushproxy/upstream/upstreamtest"
)

// served is a running pushproxy between a client and a fake upstream.
type served struct {
	t      *testing.T
	url    string // of the registry door
	config string // the file
	dir    string
	reg    *upstreamtest.Registry
	broken atomic.Int32 // status of the upstream's answers to manifests; 0: right ones
	hooks  chan hookEvent
	stop   func()
	header http.Header // of what is sent, beside Content-Type
}

func serveQueue(t *testing.T) *served {
	t.Helper()
	home := clean(t)
	// serve changes it for the whole process.
	umask := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(umask) })
	s := &served{t: t, reg: &upstreamtest.Registry{}, dir: filepath.Join(home, "data"), hooks: make(chan hookEvent, 10), config: filepath.Join(home, "config.yaml")}
	s.reg.Fail = func(r *http.Request) int {
		if strings.Contains(r.URL.Path, "/manifests/") {
			return int(s.broken.Load())
		}
		return 0
	}
	up := httptest.NewServer(s.reg)
	t.Cleanup(up.Close)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e hookEvent
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		s.hooks <- e
	}))
	t.Cleanup(hook.Close)
	text := fmt.Sprintf("forward_proxy: {listen: []}\nstatus_listen: []\nlisten: ['127.0.0.1:0']\ndata_dir: %q\nqueue: {webhook: %q}\nupstreams: [{host: registry.test, url: %q, routes: [{match: 'queued/*', mode: async}]}]\n",
		s.dir, hook.URL, up.URL)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *served) start() {
	s.t.Helper()
	c, err := load(s.t, "", "--config", s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	log := &readyLog{ready: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
	select {
	case <-log.ready:
	case err := <-ended:
		s.t.Fatalf("ended before it was ready: %v", err)
	}
	s.url = "http://" + log.address
	s.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		s.stop = func() {}
	}
}

// run runs a command as a person does.
func (s *served) run(args ...string) (stdout string, err error) {
	var out, errs bytes.Buffer
	err = run(s.t.Context(), append(args, "--config", s.config), &out, &errs)
	return out.String() + errs.String(), err
}

func (s *served) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func (s *served) send(method, path, contentType string, body []byte) *http.Response {
	s.t.Helper()
	if strings.HasPrefix(path, "/") {
		path = s.url + path
	}
	r, err := http.NewRequest(method, path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	maps.Copy(r.Header, s.header)
	r.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	response.Body.Close()
	return response
}

// push pushes an image of one blob and returns its digest.
func (s *served) push(name, tag, content string) digest.Digest {
	s.t.Helper()
	d := digest.FromString(content)
	if r := s.send("POST", "/v2/registry.test/"+name+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", []byte(content)); r.StatusCode != 201 {
		s.t.Fatalf("blob: %s", r.Status)
	}
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":%d},"layers":[]}`, oci.MediaTypeOCIManifest, d, len(content))
	if r := s.send("PUT", "/v2/registry.test/"+name+"/manifests/"+tag, oci.MediaTypeOCIManifest, []byte(raw)); r.StatusCode != 201 {
		s.t.Fatalf("manifest: %s", r.Status)
	}
	return digest.FromString(raw)
}

func TestWaitReturnsWithTheUpstreamsTruth(t *testing.T) {
	s := serveQueue(t)
	d := s.push("queued/app", "v1", "one")
	for _, name := range []string{"registry.test/queued/app:v1", strings.TrimPrefix(s.url, "http://") + "/registry.test/queued/app:v1", "registry.test/queued/app@" + d.String()} {
		if out := s.must("wait", name); !strings.Contains(out, d.String()) {
			t.Errorf("%s: %q", name, out)
		}
	}
	var line waited
	if err := json.Unmarshal([]byte(s.must("wait", "--json", "registry.test/queued/app:v1")), &line); err != nil || !line.Done || line.Digest != d.String() {
		t.Errorf("as JSON: %+v, %v", line, err)
	}
	if e := <-s.hooks; e.Event != "done" || e.Job.Digest != d.String() {
		t.Errorf("the webhook got %+v", e)
	}
	if out, err := s.run("wait", "registry.test/queued/app:never"); err == nil || !strings.Contains(err.Error(), "does not have") {
		t.Errorf("what nobody pushed: %v\n%s", err, out)
	}
}

func TestAJobCanBeSeenRetriedAndDroppedAndSurvivesARestart(t *testing.T) {
	s := serveQueue(t)
	s.broken.Store(400)
	d := s.push("queued/app", "v1", "one")
	if e := <-s.hooks; e.Event != "failed" || e.Job.State != "parked" || e.Job.Error == "" {
		t.Errorf("the webhook got %+v", e)
	}
	var jobs []jobView
	if err := json.Unmarshal([]byte(s.must("queue", "ls", "--json")), &jobs); err != nil || len(jobs) != 1 || jobs[0].State != "parked" {
		t.Fatalf("jobs: %+v, %v", jobs, err)
	}
	id := jobs[0].ID
	for _, args := range [][]string{{"queue", "ls"}, {"queue", "show", id}} {
		if out := s.must(args...); !strings.Contains(out, id) || !strings.Contains(out, "registry.test/queued/app:v1") || !strings.Contains(out, "refused") {
			t.Errorf("%v: %q", args, out)
		}
	}
	if _, err := s.run("wait", "registry.test/queued/app:v1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("waiting for what is parked: %v", err)
	}
	s.stop()
	if _, err := s.run("queue", "ls"); err == nil || !strings.Contains(err.Error(), "no pushproxy is running") {
		t.Errorf("without a pushproxy: %v", err)
	}
	s.broken.Store(0)
	s.start()
	s.must("queue", "retry", id)
	if out := s.must("wait", id); !strings.Contains(out, d.String()) {
		t.Errorf("after a retry: %q", out)
	}
	if out := s.must("queue", "ls"); out != "nothing is queued\n" {
		t.Errorf("what is done is still listed: %q", out)
	}
	s.broken.Store(503)
	s.push("queued/app", "v2", "two")
	_ = json.Unmarshal([]byte(s.must("queue", "ls", "--json")), &jobs)
	for _, json := range []bool{false, true} {
		out, err := s.run("wait", "--timeout", "500ms", "registry.test/queued/app:v2", fmt.Sprintf("--json=%v", json))
		if err == nil || !strings.Contains(err.Error(), "stays queued: registry.test/queued/app:v2: job "+jobs[0].ID) || json != strings.Contains(out, `"error": "registry.test/queued/app:v2 is not there after 500ms`) {
			t.Errorf("an outage that is longer than the patience: %v\n%s", err, out)
		}
	}
	s.must("queue", "drop", jobs[0].ID)
	if _, err := s.run("queue", "show", jobs[0].ID); err == nil {
		t.Error("a dropped job is still there")
	}
}

func TestTheSocketIsForItsUserAlone(t *testing.T) {
	s := serveQueue(t)
	s.must("queue", "ls")
	info, err := os.Stat(adminSocket(s.dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := overSocket(s.dir).ask(t.Context(), "GET", "/readyz"); err != nil {
		t.Error(err)
	}
}

func TestGCAndFsckWorkWithAndWithoutARunningPushproxy(t *testing.T) {
	s := serveQueue(t)
	d := s.push("queued/app", "v1", "one")
	s.must("wait", "registry.test/queued/app@"+d.String())
	for range 2 {
		if out := s.must("gc", "--dry-run"); !strings.HasPrefix(out, "1 blobs with ") {
			t.Errorf("gc: %q", out)
		}
		s.must("gc")
		if out := s.must("fsck", "--read-data=100%"); !strings.HasPrefix(out, "1 blobs, 1 of them read (") {
			t.Errorf("fsck: %q", out)
		}
		s.stop()
	}
	if _, err := s.run("fsck", "--read-data=lots"); err == nil || !strings.Contains(err.Error(), "is not a percentage") {
		t.Errorf("a bad percentage: %v", err)
	}
}

func TestSizesWindowsAndNamesAreReadAsWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"": 0, "100": 100, "64KiB": 64 << 10, "100MB": 100e6, "2g": -1, "3M": 3e6, "2 GiB": 2 << 30, "1T": 1e12, "-1": -1, "x": -1, "1iB": -1, "99999999T": -1} {
		if got, err := parseSize(text); got != max(want, 0) || (err != nil) != (want < 0) {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{{"acme/*", "acme/a/b", true}, {"acme/*", "acme", false}, {"*", "x", true}, {"*/app", "a/b/app", true}, {"a*c*e", "abcde", true}, {"a*c*e", "abde", false}, {"app", "app", true}} {
		if got := glob(c.pattern, c.name); got != c.want {
			t.Errorf("%s matches %s: %t", c.pattern, c.name, got)
		}
	}
	if w, err := parseWindow("22:00-06:30"); err != nil || w.From != 22*time.Hour || w.To != 6*time.Hour+30*time.Minute {
		t.Errorf("got %v, %v", w, err)
	}
	for _, bad := range []string{"", "8-9", "25:00-26:00", "08:00"} {
		if _, err := parseWindow(bad); err == nil {
			t.Errorf("%q is a window", bad)
		}
	}
	for text, want := range map[string]string{"localhost:5001/a.test/x:1": "a.test/x:1", "127.0.0.1:1/a": "a", "[::1]:5001/a": "a", "a.test/localhost:1": "a.test/localhost:1", "a.test:5000/x": "a.test:5000/x"} {
		if got := withoutDoor(text); got != want {
			t.Errorf("%s without the door is %s", text, got)
		}
	}
}

func TestStatusListsPushesByRepositoryAndAsManyAsAreAskedFor(t *testing.T) {
	s := serveQueue(t)
	const many = 60
	for i := range many {
		s.push("plain/app", fmt.Sprintf("v%d", i), fmt.Sprint("content ", i))
	}
	s.push("plain/other", "v1", "other")
	s.broken.Store(400)
	s.push("queued/app", "v1", "queued")
	if e := <-s.hooks; e.Event != "failed" {
		t.Fatalf("the webhook got %+v", e)
	}
	count := func(args ...string) (finished, queued int, images string) {
		t.Helper()
		var snapshot status.Snapshot
		if err := json.Unmarshal([]byte(s.must(append([]string{"status", "--json"}, args...)...)), &snapshot); err != nil {
			t.Fatal(err)
		}
		for _, p := range snapshot.Finished {
			images += p.Image() + "\n"
		}
		return len(snapshot.Finished), len(snapshot.Queue), images
	}
	for _, c := range []struct {
		args             []string
		finished, queued int
	}{
		{nil, 10, 1},
		{[]string{"--limit", "0"}, 0, 1},
		{[]string{"--limit", "55", "--repository", "plain/app"}, 55, 0},
		{[]string{"--limit", "500", "--repository", "registry.test/plain/app"}, many, 0},
		{[]string{"--repository", "plain/other"}, 1, 0},
		{[]string{"--repository", "queued/"}, 1, 1}, // parked: it failed, and a person may retry it
		{[]string{"--repository", "nothing"}, 0, 0},
	} {
		finished, queued, images := count(c.args...)
		if finished != c.finished || queued != c.queued {
			t.Errorf("status %v lists %d finished and %d queued, want %d and %d:\n%s", c.args, finished, queued, c.finished, c.queued, images)
		}
	}
	text := s.must("status", "--repository", "queued/app")
	var jobs []jobView
	if err := json.Unmarshal([]byte(s.must("queue", "ls", "--json")), &jobs); err != nil || len(jobs) != 1 || jobs[0].Push == "" {
		t.Fatalf("jobs: %+v, %v", jobs, err)
	}
	for _, out := range []string{text, s.must("queue", "ls"), s.must("queue", "show", jobs[0].ID)} {
		if !strings.Contains(out, jobs[0].ID) || !strings.Contains(out, "parked") || !strings.Contains(out, "registry.test/queued/app:v1") {
			t.Errorf("the job is not told in the same words:\n%s", out)
		}
	}
	if out := s.must("status", jobs[0].Push); !strings.Contains(out, jobs[0].ID) || !strings.Contains(out, "refused") {
		t.Errorf("the push that queue ls names is not explained:\n%s", out)
	}
}
