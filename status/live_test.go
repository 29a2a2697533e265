package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/upstream/upstreamtest"
)

// page is one reader of the stream.
type page struct {
	conn   net.Conn
	lines  *bufio.Reader
	status string
	lastID string
}

type message struct{ id, name, data string }

// serveStream serves the rig's server without a network; open is a new page,
// after the event lastID.
func (r *rig) serveStream(v Viewer) (open func(lastID string) *page, end func()) {
	l := upstreamtest.Listen(5003)
	handler := r.server.Handler()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		handler.ServeHTTP(w, req.WithContext(WithViewer(req.Context(), v)))
	})}
	go func() { _ = server.Serve(l) }()
	open = func(lastID string) *page {
		near, err := l.Dial(r.t.Context(), "", "")
		r.must(err)
		header := ""
		if lastID != "" {
			header = "Last-Event-ID: " + lastID + "\r\n"
		}
		_, err = fmt.Fprintf(near, "GET /v1/events HTTP/1.1\r\nHost: localhost:5003\r\n%s\r\n", header)
		r.must(err)
		p := &page{conn: near, lines: bufio.NewReader(near)}
		response, err := http.ReadResponse(p.lines, nil)
		r.must(err)
		p.status, p.lines = response.Status, bufio.NewReader(response.Body)
		return p
	}
	return open, func() { _ = server.Close() }
}

// streaming runs a test in fake time whose rig serves the stream to v.
func streaming(t *testing.T, v Viewer, test func(t *testing.T, r *rig, open func(lastID string) *page)) {
	t.Helper()
	bubble(t, "", func(t *testing.T, r *rig) {
		open, end := r.serveStream(v)
		defer end()
		test(t, r, open)
	})
}

// next returns the next message that is no heartbeat.
func (p *page) next() (m message, err error) {
	for {
		line, err := p.lines.ReadString('\n')
		if err != nil {
			return m, err
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			m.id, p.lastID = value, value
		case "event":
			m.name = value
		case "data":
			m.data = value
		case "":
			if m.name != "" {
				return m, nil
			}
		}
	}
}

// begins reads the snapshot that a stream begins with.
func (p *page) begins(t *testing.T) {
	t.Helper()
	var s Snapshot
	m, err := p.next()
	if err != nil || m.name != "snapshot" || json.Unmarshal([]byte(m.data), &s) != nil || s.Event != m.id || s.Version != Version {
		t.Fatalf("the stream begins with %+v, %v", m, err)
	}
}

// until reads messages until one is what match wants, and returns how many of
// each name there were.
func (p *page) until(t *testing.T, match func(message) bool) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for {
		m, err := p.next()
		if err != nil {
			t.Fatalf("the stream ended: %v; seen %v", err, seen)
		}
		seen[m.name]++
		if match(m) {
			return seen
		}
	}
}

func doneOf(id string) func(message) bool {
	return func(m message) bool {
		var p Push
		return m.name == "push" && json.Unmarshal([]byte(m.data), &p) == nil && p.ID == id && p.State == Done && p.Steps == nil
	}
}

func TestAStreamBeginsWithASnapshotAndTellsEveryEnd(t *testing.T) {
	t.Parallel()
	streaming(t, all, func(t *testing.T, r *rig, open func(string) *page) {
		p := open("")
		p.begins(t)
		blob := content("blob", 100<<10)
		id := r.brings("ann", "acme/app", "v1", blob)
		seen := p.until(t, doneOf(id))
		if seen["snapshot"] > 0 {
			t.Errorf("seen %v", seen)
		}
		p.conn.Close()
	})
}

func TestAStreamIsToldOfAPushFourTimesASecondAtMostAndAlwaysOfTheLastState(t *testing.T) {
	t.Parallel()
	streaming(t, all, func(t *testing.T, r *rig, open func(string) *page) {
		p := open("")
		done := make(chan map[string]int)
		go func() {
			done <- p.until(t, func(m message) bool { return m.name == "push" && strings.Contains(m.data, `"state":"done"`) })
		}()
		blob := content("blob", 1<<20)
		in := r.forward.Incoming(r.target("ann"), repoOf("acme/app"), "slow", "", "", 0, -1)
		for i := range 100 {
			in.Got(int64(i) << 10)
			time.Sleep(101 * time.Millisecond)
		}
		in.End("", 0, "the client gave this upload up")
		r.receive("ann", "acme/app", blob)
		job, err := r.forward.Submit(t.Context(), r.job("ann", "acme/app", "v1", r.image(blob)))
		r.must(err)
		_, err = job.Wait(t.Context())
		r.must(err)
		seen := <-done
		if n := seen["push"]; n < 30 || n > 10*4+5 {
			t.Errorf("told %d times in ten seconds", n)
		}
		p.conn.Close()
	})
}

func TestAReaderThatFallsBehindGetsTheNewestStateAndOneThatIsStuckIsDropped(t *testing.T) {
	t.Parallel()
	streaming(t, all, func(t *testing.T, r *rig, open func(string) *page) {
		slow, stuck := open(""), open("")
		blob := content("blob", 100<<10)
		before := time.Now()
		var last string
		for i := range 50 {
			last = r.brings("ann", "acme/app", fmt.Sprintf("v%d", i), blob)
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(before); took > 50*101*time.Millisecond {
			t.Errorf("readers that read nothing made 50 pushes take %s", took)
		}
		seen := slow.until(t, doneOf(last))
		if seen["push"] > 60 {
			t.Errorf("the slow reader got %v", seen)
		}
		go func() { _, _ = io.Copy(io.Discard, slow.lines) }()
		time.Sleep(writeFor + time.Second)
		synctest.Wait()
		r.tracker.mu.Lock()
		if got := r.tracker.live.streams; got != 1 {
			t.Errorf("%d streams, want the one that reads", got)
		}
		r.tracker.mu.Unlock()
		if _, err := io.ReadAll(stuck.conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the stuck reader's connection: %v", err)
		}
		slow.conn.Close()
	})
}

func TestAStreamGoesOnWhereItEndedAndAfterARestartWithASnapshot(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		open, end := r.serveStream(all)
		p := open("")
		p.begins(t)
		p.conn.Close()
		blob := content("blob", 1000)
		missed := r.brings("ann", "acme/app", "v1", blob)
		// Long enough for it to be put away.
		time.Sleep(2 * time.Minute)
		again := open(p.lastID)
		if seen := again.until(t, doneOf(missed)); seen["snapshot"] > 0 || seen["push"] != 1 {
			t.Errorf("a stream that goes on got %v", seen)
		}
		again.conn.Close()
		for _, id := range []string{"elsewhere-3", "here-99999", "here-", "nonsense", "here-1-1"} {
			other := open(id)
			other.begins(t)
			other.conn.Close()
		}
		end()
		r.end()
		r.start("")
		r.server.Instance = "anew"
		open, end = r.serveStream(all)
		defer end()
		after := open(again.lastID)
		after.begins(t)
		after.conn.Close()
	})
}

func TestAStreamThatIsCutWithinAFrameLosesNothingOfIt(t *testing.T) {
	t.Parallel()
	streaming(t, all, func(t *testing.T, r *rig, open func(string) *page) {
		p := open("")
		p.begins(t)
		p.conn.Close()
		want := map[string]bool{}
		for _, tag := range []string{"v1", "v2", "v3"} {
			blob := content(tag, 1000)
			want[r.brings("ann", "acme/"+tag, tag, blob)] = true
		}
		time.Sleep(time.Second)
		for whole := range len(want) {
			told := map[string]bool{}
			read := func(p *page, messages int) {
				r.must(p.conn.SetReadDeadline(time.Now().Add(time.Second)))
				for range messages {
					m, err := p.next()
					if err != nil {
						return
					}
					var push Push
					if m.name == "push" && json.Unmarshal([]byte(m.data), &push) == nil {
						told[push.ID] = true
					}
				}
			}
			cut := open(p.lastID)
			cut.lastID = p.lastID
			read(cut, whole)
			cut.conn.Close()
			rest := open(cut.lastID)
			read(rest, 100)
			rest.conn.Close()
			if !maps.Equal(told, want) {
				t.Errorf("cut after %d events, it was told of %v and not of all in %v", whole, told, want)
			}
		}
	})
}

func TestAPrincipalsStreamTellsNothingOfOthers(t *testing.T) {
	t.Parallel()
	streaming(t, Viewer{Principal: "bob"}, func(t *testing.T, r *rig, open func(string) *page) {
		p := open("")
		p.begins(t)
		blob := content("blob", 1000)
		r.brings("ann", "acme/app", "v1", blob)
		time.Sleep(time.Second)
		own := r.brings("bob", "acme/own", "v1", blob)
		for {
			m, err := p.next()
			r.must(err)
			if strings.Contains(m.data, "ann") || strings.Contains(m.data, "acme/app") {
				t.Fatalf("bob is told: %s %s", m.name, m.data)
			}
			if doneOf(own)(m) {
				break
			}
		}
		p.conn.Close()
	})
}

// It counts the goroutines of the whole process, so nothing runs beside it.
func TestTwentyPagesLeaveNothingBehind(t *testing.T) {
	streaming(t, all, func(t *testing.T, r *rig, open func(string) *page) {
		blob := content("blob", 1000)
		r.receive("ann", "acme/app", blob)
		synctest.Wait()
		before := runtime.NumGoroutine()
		var pages []*page
		for range 20 {
			pages = append(pages, open(""))
		}
		id, err := r.put("ann", "acme/app", "v1", r.image(blob))
		r.must(err)
		for _, p := range pages {
			p.until(t, doneOf(id))
		}
		for _, p := range pages {
			p.conn.Close()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.tracker.mu.Lock()
		streams := r.tracker.live.streams
		r.tracker.mu.Unlock()
		if after := runtime.NumGoroutine(); streams != 0 || after > before+3 {
			t.Errorf("%d streams, %d goroutines after %d", streams, after, before)
		}
	})
}

func TestThereIsAnEndToHowManyStreamsOnePrincipalMayHave(t *testing.T) {
	t.Parallel()
	streaming(t, Viewer{Principal: "bob"}, func(t *testing.T, r *rig, open func(string) *page) {
		var pages []*page
		for range mostOwnStreams {
			pages = append(pages, open(""))
		}
		if p := open(""); !strings.HasPrefix(p.status, "429") {
			t.Errorf("one more: %s", p.status)
		}
		others, endOthers := r.serveStream(all)
		defer endOthers()
		if p := others(""); !strings.HasPrefix(p.status, "200") {
			t.Errorf("somebody else: %s", p.status)
		}
		for _, p := range pages {
			p.conn.Close()
		}
	})
}

func TestTheStreamsEndWithTheTracker(t *testing.T) {
	t.Parallel()
	streaming(t, all, func(t *testing.T, r *rig, open func(string) *page) {
		p := open("")
		p.begins(t)
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, p.lines)
			ended <- err
		}()
		r.end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		select {
		case <-ended:
		case <-ctx.Done():
			t.Error("the stream goes on")
		}
	})
}
