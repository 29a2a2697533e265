package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"
	"github.com/tmaxmax/go-sse"

	"pushproxy/status"
)

var update = flag.Bool("update", false, "write what is printed to testdata instead of comparing")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it anew); got:\n%s\nwant:\n%s", path, got, want)
	}
}

const hostile = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u009b32m\r\nb\tc\u202egnp.exe\u2066\x00\x7f"

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// busy is a snapshot with a blob in every state.
func busy() status.Snapshot {
	digest := func(i int) string { return "sha256:" + strings.Repeat(fmt.Sprint(i), 64) }
	push := status.Push{ID: "p1", Principal: "local", Upstream: "registry.test", Repository: "acme/app", Tags: []string{"v1"}, State: status.Pushing, Started: noon.Add(-12 * time.Second)}
	for i, b := range []status.Blob{
		{Size: 41_000_000, State: status.BlobPushing, Received: 30_100_000, Sent: 12_300_000},
		{Size: -1, State: status.BlobReceiving, Received: 5_400_000},
		{Size: 9_000_000, State: status.BlobReceiving, Received: 1_000_000},
		{Size: 120_000_000, State: status.BlobExists},
		{Size: 30_000_000, State: status.BlobMounted, From: "acme/base"},
		{Size: 2_000_000, State: status.BlobRetrying, RetryAt: noon.Add(3500 * time.Millisecond), Why: "registry.test answered 503 " + hostile},
		{Size: 1_500, State: status.BlobPushed, Received: 1_500, Sent: 1_500},
		{Size: 900, State: status.BlobWaiting},
		{Size: 10_000_000, State: status.BlobPushing, Sent: 9_999_999},
	} {
		b.Digest = digest(i)
		push.Blobs = append(push.Blobs, b)
	}
	second := push
	second.ID, second.Repository, second.Tags = "p2", "other/größe", []string{hostile}
	second.Blobs = push.Blobs[:2]
	return status.Snapshot{Version: status.Version, Pushproxy: "v1", Instance: "i1", Started: noon, Now: noon, Pushes: []status.Push{push, second},
		Queue: []status.Job{{ID: "j1"}}, Upstreams: []status.Upstream{{Host: "registry.test", Rate: 12_800_000}}}
}

func event(t *testing.T, id, kind string, v any) sse.Event {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return sse.Event{LastEventID: id, Type: kind, Data: string(b)}
}

func TestTheLiveDisplayFitsItsTerminal(t *testing.T) {
	t.Parallel()
	var b board
	if _, err := b.take(event(t, "i1-1", "snapshot", busy()), noon); err != nil {
		t.Fatal(err)
	}
	for _, size := range [][2]int{{120, 40}, {99, 28}, {79, 8}, {60, 6}, {30, 4}, {10, 2}, {1, 1}} {
		t.Run(fmt.Sprintf("%d by %d", size[0], size[1]), func(t *testing.T) {
			rows := b.rows(noon, size[0], size[1])
			if len(rows) > size[1] {
				t.Errorf("%d rows", len(rows))
			}
			for i, row := range rows {
				if strings.ContainsFunc(row, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%q reaches the terminal", row)
				}
				rows[i] = runewidth.Truncate(row, size[0], "")
			}
			golden(t, fmt.Sprintf("watch-%dx%d", size[0], size[1]), strings.Join(rows, "\n")+"\n")
		})
	}
}

func TestABarIsFullOnlyWhenAllIsUpstream(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name              string
		total, here, gone int64
		want              string
	}{
		{"nothing yet", 100, 0, 0, "[          ]"},
		{"half received, a fifth gone", 100, 50, 20, "[==---     ]"},
		{"all received, none gone", 100, 100, 0, "[----------]"},
		{"all but a byte gone", 1000, 1000, 999, "[=========-]"},
		{"all gone", 100, 100, 100, "[==========]"},
		{"from the cache, half gone", 100, 0, 50, "[=====     ]"},
		{"more than there is", 100, 300, 200, "[==========]"},
		{"an exabyte", 1 << 60, 1 << 59, 1 << 58, "[==---     ]"},
		{"an unknown size", -1, 10, 10, ""},
	} {
		if got := bar(c.total, c.here, c.gone, 10); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTextOutsideUTF8IsAskedForByTheLocale(t *testing.T) {
	for _, c := range []struct{ all, lang, want string }{
		{"", "de_DE.UTF-8", "größer"}, {"", "C.utf8", "größer"}, {"C", "de_DE.UTF-8", "gr??er"}, {"", "", "gr??er"}, {"", "de_DE.ISO-8859-1", "gr??er"},
	} {
		t.Setenv("LC_ALL", c.all)
		t.Setenv("LC_CTYPE", "")
		t.Setenv("LANG", c.lang)
		if got := plain("größer"); got != c.want {
			t.Errorf("LC_ALL=%q LANG=%q: %q, want %q", c.all, c.lang, got, c.want)
		}
	}
}

// lossy serves events on the socket of a data directory and loses each connection after its share of them, the last one in
// the middle.
type lossy struct {
	asked       []string // Last-Event-ID of each connection
	connections []string // what each gets
}

func (l *lossy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(l.asked) == len(l.connections) {
		w.WriteHeader(http.StatusGone)
		return
	}
	text := l.connections[len(l.asked)]
	l.asked = append(l.asked, r.Header.Get("Last-Event-ID"))
	if text == "busy" {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte(text))
}

// onSocket serves a handler as the pushproxy of a configuration, which it returns.
func onSocket(t *testing.T, h http.Handler) (config string) {
	t.Helper()
	home := clean(t)
	data := filepath.Join(home, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", adminSocket(data))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	config = filepath.Join(home, "config.yaml")
	if err := os.WriteFile(config, []byte("data_dir: "+data+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

func try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = run(ctx, args, &out, &errs)
	return out.String(), errs.String(), err
}

func TestALostConnectionIsTakenUpAfterTheLastWholeEvent(t *testing.T) {
	text := func(e sse.Event) string {
		return fmt.Sprintf("event: %s\nid: %s\ndata: %s\n\n", e.Type, e.LastEventID, e.Data)
	}
	push := func(n int, s status.State) sse.Event {
		return event(t, fmt.Sprintf("i1-%d", n), "push", status.Push{ID: fmt.Sprintf("p%d", n), Upstream: "registry.test", Repository: "acme/app", State: s, Started: noon})
	}
	start := text(event(t, "i1-1", "snapshot", status.Snapshot{Version: status.Version, Instance: "i1"}))
	third := text(push(3, status.Done))
	id, data := strings.Index(third, "id: "), strings.Index(third, "data: ")
	l := &lossy{connections: []string{start + text(push(2, status.Done)) + third[:len(third)-20], "busy", third[:id], third[:data], ": nothing\n\n", third + text(push(4, status.Failed))}}
	config := onSocket(t, l)
	stdout, stderr, err := try(t, "status", "--watch", "--json", "--config", config)
	if err == nil || !strings.Contains(err.Error(), "410") {
		t.Errorf("a refusal did not end it: %v", err)
	}
	var ids []string
	for line := range strings.Lines(stdout) {
		var e struct{ Event, ID string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		ids = append(ids, e.Event+" "+e.ID)
	}
	if want := []string{"snapshot i1-1", "push i1-2", "push i1-3", "push i1-4"}; !reflect.DeepEqual(ids, want) {
		t.Errorf("events: %v, want %v", ids, want)
	}
	if want := []string{"", "i1-2", "i1-2", "i1-2", "i1-2", "i1-2"}; !reflect.DeepEqual(l.asked, want) {
		t.Errorf("asked to go on after %q, want %q", l.asked, want)
	}
	if n := strings.Count(stderr, "is lost"); n != 5 || strings.Count(stderr, "again") != 4 {
		t.Errorf("of the connection it said:\n%s", stderr)
	}
}

// What clients and upstreams chose stands in JSON too, and a terminal shows that.
func TestJSONOfOthersTextSteersNoTerminal(t *testing.T) {
	push := status.Push{ID: "p1", Upstream: "registry.test", Repository: "acme/app", Agent: hostile, Tags: []string{hostile}, State: status.Failed, Why: hostile, Started: noon, Finished: noon}
	snapshot := status.Snapshot{Version: status.Version, Instance: "i1", Finished: []status.Push{push}, Upstreams: []status.Upstream{{Host: "registry.test", Why: hostile}}}
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/status", answer(snapshot))
	mux.HandleFunc("/v1/pushes/p1", answer(push))
	mux.HandleFunc("/v1/jobs", answer([]jobView{{ID: "j1", Error: hostile}}))
	mux.Handle("/v1/events", &lossy{connections: []string{fmt.Sprintf("id: i1-1\nevent: snapshot\ndata: %s\n\n", event(t, "", "", snapshot).Data)}})
	config := onSocket(t, mux)
	for name, args := range map[string][]string{
		"everything":       {"status", "--json"},
		"one push":         {"status", "p1", "--json"},
		"the stream":       {"status", "--watch", "--json"},
		"the upstreams":    {"top", "--json"},
		"the queue's jobs": {"queue", "ls", "--json"},
	} {
		stdout, _, err := try(t, append(args, "--config", config)...)
		if err != nil && name != "the stream" {
			t.Errorf("%s: %v", name, err)
		}
		if i := strings.IndexFunc(stdout, func(r rune) bool { return r != '\n' && (r == unicode.ReplacementChar || !unicode.IsPrint(r)) }); i >= 0 {
			t.Errorf("%s steers a terminal: %q", name, stdout)
		}
		if !strings.Contains(stdout, `\u202e`) || !json.Valid([]byte(stdout)) {
			t.Errorf("%s is not told: %q", name, stdout)
		}
	}
}

func TestWhatHappenedBehindALostConnectionIsTold(t *testing.T) {
	t.Parallel()
	var b board
	take := func(e sse.Event) []string {
		t.Helper()
		n, err := b.take(e, noon)
		if err != nil {
			t.Fatal(err)
		}
		return n.keep
	}
	push := func(id string, s status.State) status.Push {
		return status.Push{ID: id, Upstream: "registry.test", Repository: "acme/" + id, Job: "j-" + id, State: s, Started: noon, Finished: noon}
	}
	take(event(t, "i1-1", "snapshot", status.Snapshot{Version: 1, Instance: "i1", Finished: []status.Push{push("old", status.Done)},
		Pushes: []status.Push{push("ends", status.Pushing), push("goes", status.Pushing), push("lost", status.Receiving), push("queued", status.Queued)}}))
	got := take(event(t, "i2-1", "snapshot", status.Snapshot{Version: 1, Instance: "i2", Pushproxy: "v2",
		Pushes:   []status.Push{push("goes", status.Pushing)},
		Finished: []status.Push{push("unseen", status.Failed), push("ends", status.Done), push("old", status.Done)},
		Queue:    []status.Job{{ID: "j-queued", Upstream: "registry.test", Repository: "acme/queued", Reference: "v1", State: "waiting"}}}))
	want := []string{
		"pushproxy v2 was started anew",
		"registry.test/acme/ends: done in 0 ms: no blobs",
		"registry.test/acme/unseen: failed after 0 ms",
		"registry.test/acme/lost: stopped after 0 ms: pushproxy was started again; push once more, what was received is kept",
		"registry.test/acme/queued: queued for 0 ms: pushproxy was started again and goes on with job j-queued",
		"registry.test/acme/queued:v1: job j-queued is waiting",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, again := range []string{"ends", "lost", "old"} {
		if got := take(event(t, "i2-2", "push", push(again, status.Done))); len(got) > 0 {
			t.Errorf("told twice: %q", got)
		}
	}
}

func TestStatusSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/status", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version": 99, "pushproxy": "v9"}`) })
	mux.HandleFunc("/v1/pushes/refused", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		b, _ := json.Marshal(map[string]any{"errors": []map[string]string{{"message": "no: " + hostile}}})
		_, _ = w.Write(b)
	})
	config := onSocket(t, mux)
	empty := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(empty, []byte("data_dir: "+t.TempDir()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := errors.Join(os.WriteFile(token, []byte("secret\n"), 0o600), os.Chmod(token, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing runs", []string{"status", "--config", empty}, "no pushproxy is running with the data directory"},
		{"nothing runs to be watched", []string{"status", "--watch", "--config", empty}, "start it with pushproxy serve"},
		{"nothing runs, for top", []string{"top", "--config", empty}, "start it with pushproxy serve"},
		{"nothing listens", []string{"status", "--url", "http://127.0.0.1:1"}, "no pushproxy is running at http://127.0.0.1:1"},
		{"another version", []string{"status", "--config", config}, "version 99"},
		{"another version, for top", []string{"top", "--config", config}, "version 99"},
		{"an unknown push", []string{"status", "nope\x1b[2J", "--config", config}, "there is no push nope?[2J"},
		{"a path for a push", []string{"status", "../status", "--config", config}, "there is no push ../status"},
		{"a refusal", []string{"status", "refused", "--config", config}, "no: a?]0;owned"},
		{"a limit below nothing", []string{"status", "--limit", "-1"}, "--limit"},
		{"a limit for a watch", []string{"status", "--watch", "--limit", "3"}, "--limit"},
		{"a repository for a push", []string{"status", "p1", "--repository", "acme"}, "--repository"},
		{"no URL", []string{"status", "--url", "localhost:5003"}, "--url"},
		{"a token for the socket", []string{"status", "--token-file", token}, "goes with --url"},
		{"a token in the clear", []string{"status", "--url", "http://192.0.2.1:5003", "--token-file", token}, "in the clear"},
		{"a token that others can read", []string{"status", "--url", "http://127.0.0.1:5003", "--token-file", token}, "--token-file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stdout, _, err := try(t, c.args...)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\x1b\x07\u009b") || stdout != "" {
				t.Errorf("%q, and printed %q; want an error with %q", err, stdout, c.want)
			}
			if errors.Is(err, errReported) {
				t.Error("nobody is told")
			}
		})
	}
}

func FuzzJSONForATerminalSaysTheSame(f *testing.F) {
	f.Add(hostile)
	f.Add("größer \U0001f433 \U000e0001")
	f.Fuzz(func(t *testing.T, text string) {
		raw, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		safe := harmless(raw)
		if i := bytes.IndexFunc(safe, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q steers a terminal", safe)
		}
		var want, got string
		if json.Unmarshal(raw, &want) != nil || json.Unmarshal(safe, &got) != nil || got != want {
			t.Errorf("%q became %q", want, got)
		}
	})
}

func FuzzAnyEventIsTakenOrRefused(f *testing.F) {
	for _, kind := range []string{"snapshot", "push", "queue", "upstream", "store", "other"} {
		f.Add(kind, `{"version":1,"instance":"i","pushes":[{"id":"p","state":"pushing","blobs":[{"size":-1,"state":"Receiving"}]}]}`)
		f.Add(kind, `[{"id":"j"}]`)
		f.Add(kind, `null`)
	}
	f.Fuzz(func(t *testing.T, kind, data string) {
		var b board
		for range 2 {
			n, err := b.take(sse.Event{Type: kind, Data: data, LastEventID: "i-1"}, noon)
			for _, line := range append(n.lines, fmt.Sprint(err)) {
				if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%q reaches the terminal", line)
				}
			}
		}
		if rows := b.rows(noon, 80, 24); len(rows) > 24 {
			t.Errorf("%d rows", len(rows))
		}
	})
}
