package tests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pushproxy/tests/parts"
)

// What people see of pushes in a terminal, and scripts on a pipe.

// piped is a command of pushproxy that runs with its output in a pipe.
type piped struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  []string
	errs string
	done chan error
}

// pipe starts a command with the rig's configuration.
func (r *rig) pipe(t *testing.T, args ...string) *piped {
	t.Helper()
	p := &piped{cmd: exec.Command(r.program, append(args, "--config", r.file)...), done: make(chan error, 1)}
	p.cmd.Env, p.cmd.Dir = r.env, r.home
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr, p.errs = errs, errs.Name()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(stdout)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.out = append(p.out, lines.Text())
			p.mu.Unlock()
		}
	}()
	go func() {
		<-read
		p.done <- p.cmd.Wait()
		_ = errs.Close()
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

func (p *piped) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.out)
}

// see waits until a line has a text, and returns it.
func (p *piped) see(t *testing.T, text string) (line string) {
	t.Helper()
	poll(t, fmt.Sprintf("a line with %q", text), func() bool {
		i := slices.IndexFunc(p.lines(), func(l string) bool { return strings.Contains(l, text) })
		if i >= 0 {
			line = p.lines()[i]
		}
		return i >= 0
	})
	return line
}

// stop ends the command as Ctrl-C does.
func (p *piped) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-p.done; err != nil {
		t.Errorf("ended by Ctrl-C: %v", err)
	}
}

// line12 is what docker calls a blob.
func line12(d desc) string { return d.Digest[len("sha256:"):][:12] }

// slowRig is a pushproxy before a registry that takes bytes at a rate until its link is widened, and an image in a layout.
type slowRig struct {
	*rig
	link   *valve
	layout string
	img    desc
	layers []desc
}

func startSlowRig(t *testing.T, rate int, change func(*rig), sizes ...int) *slowRig {
	t.Helper()
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	s := &slowRig{link: &valve{slowLink: slowLink{http.DefaultTransport, rate}}}
	rec := startRecorder(t, reg.URL, s.link)
	s.rig = startRig(t, rec.URL, change)
	l := newLayout(t, t.TempDir())
	s.layout = l.dir
	for i, size := range sizes {
		s.layers = append(s.layers, l.layer(byte(60+i), size))
	}
	s.img = l.tag("v1", l.image("amd64", s.layers...))
	return s
}

// valve is a slow link that can be shut, so that no byte of a request passes, and widened, so that it is slow no more.
type valve struct {
	slowLink
	flow sync.RWMutex // locked while it is shut
	wide atomic.Bool
}

func (v *valve) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = &valved{ReadCloser: r.Body, v: v, slow: v.body(r)}
	}
	return v.slowLink.RoundTripper.RoundTrip(r)
}

type valved struct {
	io.ReadCloser
	slow io.Reader
	v    *valve
}

func (b *valved) Read(p []byte) (int, error) {
	b.v.flow.RLock()
	defer b.v.flow.RUnlock()
	if b.v.wide.Load() {
		return b.ReadCloser.Read(p)
	}
	return b.slow.Read(p)
}

// cranePush pushes in the background; the result says how it ended.
func (r *rig) cranePush(t *testing.T, layout, ref string) <-chan error {
	t.Helper()
	program, done := tool(t, "crane"), make(chan error, 1)
	go func() {
		_, stderr, err := command{env: cleanEnv(r.home)}.try(t, program, "push", "--insecure", layout, ref)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, lastLines(stderr, 5))
		}
		done <- err
	}()
	return done
}

var escapes = regexp.MustCompile(`\x1b\[[0-9]+A\x1b\[J`)

// noControl fails when text would do more to a terminal than print, but for what bars need.
func noControl(t *testing.T, what, text string) {
	t.Helper()
	text = escapes.ReplaceAllString(strings.ReplaceAll(text, "\r\n", "\n"), "")
	for _, r := range text {
		if r != '\n' && (r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r == 0xfffd) {
			t.Errorf("%s: %q would steer a terminal in:\n%q", what, r, text)
			return
		}
	}
}

func TestAWatchShowsAPushToItsEnd(t *testing.T) {
	t.Parallel()
	r := startSlowRig(t, 4<<20, nil, 64<<20, 3_000_000)
	layers := r.layers
	bars := startPane(t, 100, 20, r.env, r.program, "status", "--watch", "--config", r.file)
	small := startPane(t, 40, 5, r.env, r.program, "status", "--watch", "--config", r.file)
	top := startPane(t, 100, 10, r.env, r.program, "top", "--config", r.file)
	lines, events := r.pipe(t, "status", "--watch"), r.pipe(t, "status", "--watch", "--json")
	other := r.pipe(t, "status", "--watch", "--repository", "acme/other")
	bars.see("0 in flight")
	lines.see(t, "0 in flight")
	events.see(t, `"snapshot"`)

	pushed := r.cranePush(t, r.layout, r.ref("acme/app", "v1"))
	row := regexp.MustCompile(line12(layers[0]) + `: Pushing +\[(=*)(-*) *\] +\S+ \S+ of 67\.\d MB`)
	var filled []int
	poll(t, "a bar that grows", func() bool {
		if m := row.FindStringSubmatch(bars.screen()); m != nil && (len(filled) == 0 || len(m[1]) != filled[len(filled)-1]) {
			filled = append(filled, len(m[1]))
		}
		return len(filled) >= 4
	})
	top.see("MB/s")
	r.link.flow.Lock()
	if !slices.IsSorted(filled) {
		t.Errorf("the bar did not only grow: %v cells", filled)
	}
	if screen := small.screen(); len(strings.Split(screen, "\n")) > 5 || !strings.Contains(screen, "in flight") {
		t.Errorf("in 40 by 5 cells:\n%s", screen)
	}
	id := watchedID(t, r.rig)
	if out, _, err := r.run(t, "status"); err != nil || !strings.Contains(out, line12(layers[0])+"  Pushing") {
		t.Errorf("status meanwhile: %v\n%s", err, out)
	}
	one := r.pipe(t, "status", id, "--watch")
	one.see(t, "Pushing")
	bars.resize(60, 12)
	r.link.wide.Store(true)
	r.link.flow.Unlock()
	if err := <-pushed; err != nil {
		t.Fatal(err)
	}
	if err := <-one.done; err != nil {
		t.Errorf("a watch of a push that went well: %v\n%s", err, strings.Join(one.lines(), "\n"))
	}
	bars.see(": done in ")
	bars.see("0 in flight")
	if screen := bars.screen(); strings.Contains(screen, "[=") {
		t.Errorf("bars stay behind:\n%s", screen)
	}
	lines.see(t, ": done in ")
	wantLines(t, lines.lines(), `0 in flight`, `acme/app.*: push `+id+` by local, .*crane`, line12(layers[0])+`: Pushing `, line12(layers[0])+`: Pushed \(67\.\d MB\)`,
		`^\d\d:\d\d:\d\d registry\.test/acme/app:v1: done in [\d.]+ s: 3 uploaded \(70\.\d MB\)`)
	wantEvents(t, events, id)
	if got := other.lines(); len(got) != 1 {
		t.Errorf("a watch of another repository printed %q", got)
	}
	explained(t, r, id)
	for _, p := range []*pane{bars, small, top} {
		p.interrupt()
		if code := p.ended(); code != "0" {
			t.Errorf("ended by Ctrl-C with status %s:\n%s", code, p.screen())
		}
		noControl(t, "the terminal", readFile(t, p.raw))
	}
	lines.stop(t)
	events.stop(t)
	noControl(t, "the pipe", strings.Join(lines.lines(), "\n"))
}

// watchedID is the id of the only push in flight.
func watchedID(t *testing.T, r *rig) string {
	t.Helper()
	stdout, stderr, err := r.run(t, "status", "--json")
	var s struct {
		Version int
		Pushes  []struct{ ID, Repository, State string }
	}
	if err != nil || json.Unmarshal([]byte(stdout), &s) != nil || s.Version != 1 || len(s.Pushes) != 1 {
		t.Fatalf("status --json: %v\n%s\n%s", err, stdout, stderr)
	}
	return s.Pushes[0].ID
}

// wantLines fails unless lines match the expressions in their order, with others between.
func wantLines(t *testing.T, lines []string, want ...string) {
	t.Helper()
	at := 0
	for _, exp := range want {
		i := slices.IndexFunc(lines[at:], func(l string) bool { return regexp.MustCompile(exp).MatchString(l) })
		if i < 0 {
			t.Errorf("no line matches %s after line %d of:\n%s", exp, at, strings.Join(lines, "\n"))
			return
		}
		at += i
	}
}

// wantEvents fails unless every line is one event, first a snapshot, and the last about a push is its end.
func wantEvents(t *testing.T, p *piped, id string) {
	t.Helper()
	var e struct {
		Event, ID string
		Data      struct{ ID, State string }
	}
	poll(t, "the event that the push is done", func() bool {
		lines := p.lines()
		for i, line := range lines {
			e.Data.ID, e.Data.State = "", ""
			err := json.Unmarshal([]byte(line), &e)
			if wrong := (*json.UnmarshalTypeError)(nil); err != nil && (e.Event != "queue" || !errors.As(err, &wrong)) {
				t.Fatalf("%q: %v", line, err)
			}
			if e.Event == "" || e.ID == "" || (i == 0) != (e.Event == "snapshot") {
				t.Fatalf("line %d: %s", i, line)
			}
			if e.Event == "push" && e.Data.ID == id && e.Data.State == "done" {
				return true
			}
		}
		return false
	})
}

// explained fails unless the explanation of a push tells of each of its blobs.
func explained(t *testing.T, r *slowRig, id string) {
	t.Helper()
	out, _, err := r.run(t, "status", id)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	wantLines(t, lines, "^push "+id+` of registry\.test/acme/app:v1: done in`, r.img.Digest, `local, .*crane`, `alice`, `manifest stored as v1`,
		`^in all: 3 uploaded .* requests to registry\.test$`)
	for _, l := range r.layers {
		wantLines(t, lines, "layer "+line12(l)+`: Pushed`, `received: .* at .*/s`, `(sent|uploaded) .* at .*MB/s \(20[12]\)`)
	}
	if stdout, _, err := r.run(t, "status", id, "--json"); err != nil || !strings.Contains(stdout, `"steps"`) || !json.Valid([]byte(stdout)) {
		t.Errorf("as JSON: %v\n%s", err, stdout)
	}
	stdout, stderr, err := r.run(t, "status", "no-such-push")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stderr, "there is no push no-such-push") || stdout != "" {
		t.Errorf("an unknown push: %v\n%s%s", err, stdout, stderr)
	}
	stdout, _, err = r.run(t, "top")
	if err != nil || !regexp.MustCompile(`(?m)^  UPSTREAM +REACHABLE .*\n  registry\.test +yes .*alice`).MatchString(stdout) {
		t.Errorf("top: %v\n%s", err, stdout)
	}
}

func TestAWatchOutlivesAKillOfPushproxy(t *testing.T) {
	t.Parallel()
	r := startSlowRig(t, 256<<10, nil, 12<<20)
	bars := startPane(t, 100, 20, r.env, r.program, "status", "--watch", "--config", r.file)
	lines, events := r.pipe(t, "status", "--watch"), r.pipe(t, "status", "--watch", "--json")
	lines.see(t, "0 in flight")
	pushed := r.cranePush(t, r.layout, r.ref("acme/app", "v1"))
	bars.see(line12(r.layers[0]) + ": Pushing")
	lines.see(t, line12(r.layers[0])+": Pushing")
	r.Kill()
	r.link.wide.Store(true)
	bars.see("does not answer")
	lines.see(t, "is lost")
	r.start(t)
	lines.see(t, "connected to pushproxy again")
	bars.see("started anew")
	// crane tries again by itself; what happens to the first push is told, and the second comes to its end.
	<-pushed
	if err := <-r.cranePush(t, r.layout, r.ref("acme/app", "v2")); err != nil {
		t.Fatal(err)
	}
	lines.see(t, "acme/app:v2: done in ")
	bars.see("acme/app:v2: done in ")
	// It was written down that the push had begun, unless the kill was quicker.
	wantLines(t, lines.lines(), `Pushing`, `is lost`, `connected to pushproxy again`, `was started anew`,
		`stopped after .*: pushproxy (was started again; push once more|ended while this push was under way.*; push again)`, `app:v2: done in`)
	var snapshots int
	instances := map[string]bool{}
	for _, line := range events.lines() {
		var e struct{ Event, ID string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Event == "snapshot" {
			snapshots++
		}
		instance, _, _ := strings.Cut(e.ID, "-")
		instances[instance] = true
	}
	if snapshots != 2 || len(instances) != 2 {
		t.Errorf("%d snapshots of %d instances, want two of two", snapshots, len(instances))
	}
	if text := readFile(t, events.errs); strings.Count(text, "is lost") != 1 || strings.Count(text, "again") != 1 {
		t.Errorf("beside the JSON it said:\n%s", text)
	}
}

func TestTextOfAnUpstreamCannotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	const evil = "owned\x1b]0;title\x07\x1b[2J\x1b[31m\u009b41m\u202etxt.exe\r\n\x1b[Hdone in 1 s"
	body, err := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": "DENIED", "message": evil}}})
	if err != nil {
		t.Fatal(err)
	}
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, http.DefaultTransport)
	rec.setRule(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != "PUT" || !strings.Contains(q.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write(body)
		return true
	})
	r := startRig(t, rec.URL, nil)
	bars := startPane(t, 200, 20, r.env, r.program, "status", "--watch", "--config", r.file)
	ascii := startPane(t, 200, 20, append(slices.Clone(r.env), "LC_ALL=C"), r.program, "status", "--watch", "--config", r.file)
	lines, events := r.pipe(t, "status", "--watch"), r.pipe(t, "status", "--watch", "--json")
	lines.see(t, "0 in flight")
	ascii.see("0 in flight")
	bars.see("0 in flight")
	a := r.api()
	config := a.pushBlob(t, upstreamName+"/acme/app", []byte("{}"))
	a.do(t, "PUT", "/v2/"+upstreamName+"/acme/app/manifests/v1", artifactOf(t, config), "Content-Type", typeManifest, "User-Agent", "größe\u009b31m\u202e")
	line := lines.see(t, "failed after")
	if !strings.Contains(line, "owned") {
		t.Errorf("what the upstream said is not told: %q", line)
	}
	bars.see("owned")
	ascii.see("owned")
	var all strings.Builder
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"top"}, {"top", "--json"}} {
		stdout, stderr, err := r.run(t, args...)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		all.WriteString(stdout + stderr)
		if args[0] == "status" && len(args) == 1 {
			id := regexp.MustCompile(`(?m)^  (\S+) +\S+ +registry\.test/acme/app:v1 +failed`).FindStringSubmatch(stdout)
			if id == nil {
				t.Fatalf("the failed push is not listed:\n%s", stdout)
			}
			if _, _, err := r.run(t, "status", id[1], "--watch"); err == nil {
				t.Error("a watch of a push that failed ends with success")
			}
			for _, more := range [][]string{{"status", id[1]}, {"status", id[1], "--json"}, {"status", "\x1b[2J"}} {
				stdout, stderr, _ := r.run(t, more...)
				all.WriteString(stdout + stderr)
			}
		}
	}
	noControl(t, "what commands print", all.String())
	for _, p := range []*pane{bars, ascii} {
		p.interrupt()
		p.ended()
		noControl(t, "the terminal", readFile(t, p.raw))
	}
	if raw := readFile(t, ascii.raw); strings.ContainsFunc(raw, func(r rune) bool { return r > '~' }) {
		t.Errorf("a terminal with LC_ALL=C got %q", raw)
	}
	events.stop(t)
	noControl(t, "JSON lines", strings.Join(events.lines(), "\n"))
}

func TestWaitDrawsABarAndEndsWithTheUpstreamsTruth(t *testing.T) {
	t.Parallel()
	r := startSlowRig(t, 256<<10, func(r *rig) { r.config.Upstreams[0].Mode = "async" }, 10<<20)
	if err := <-r.cranePush(t, r.layout, r.ref("acme/app", "v1")); err != nil {
		t.Fatal(err)
	}
	wait := startPane(t, 100, 20, r.env, r.program, "wait", r.ref("acme/app", "v1"), "--config", r.file)
	brief := startPane(t, 100, 20, r.env, r.program, "wait", "--timeout", "1s", r.ref("acme/app", "v1"), "--config", r.file)
	poll(t, "a bar", func() bool {
		return regexp.MustCompile(line12(r.layers[0]) + `: Pushing +\[=+-* *\] `).MatchString(wait.screen())
	})
	if code := brief.ended(); code != "1" || !strings.Contains(brief.screen(), "stays queued") {
		t.Errorf("a wait of a second ended with %s:\n%s", code, brief.screen())
	}
	r.link.wide.Store(true)
	if code := wait.ended(); code != "0" {
		t.Errorf("the wait ended with %s:\n%s", code, wait.screen())
	}
	if screen := wait.screen(); !strings.Contains(strings.ReplaceAll(screen, "\n", ""), r.img.Digest) || strings.Contains(screen, "[=") {
		t.Errorf("at the end:\n%s", screen)
	}
	noControl(t, "the terminal", readFile(t, wait.raw))
}
