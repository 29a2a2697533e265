package status

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func finishedPush(i int) Push {
	at := time.Date(2026, 11, 21, 0, 0, i, 0, time.UTC)
	p := Push{
		ID: fmt.Sprintf("push%06d", i), Principal: "ann", Upstream: "registry.test", Repository: fmt.Sprintf("acme/app%d", i%7), Tags: []string{fmt.Sprintf("v%d", i)},
		Digest: fmt.Sprintf("sha256:%064x", i), State: Done, Started: at, Finished: at.Add(time.Second),
	}
	for j := range 8 {
		p.Blobs = append(p.Blobs, Blob{Digest: fmt.Sprintf("sha256:%064x", i*8+j), Size: 1 << 20, State: BlobPushed, Received: 1 << 20, Sent: 1 << 20, SendBegan: at, SendEnded: at})
		for range 3 {
			p.Steps = append(p.Steps, Step{When: at, Blob: p.Blobs[j].Digest, Op: "upload", Text: "uploaded 1.05 MB in 20 ms at 52 MB/s (201)", Code: 201, Bytes: 1 << 20})
		}
	}
	return p
}

// kept is a tracker with a file, and its server.
func kept(t testing.TB, file string) (*Server, func()) {
	t.Helper()
	tracker, err := NewTracker(context.Background(), nil, nil, file)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{Tracker: tracker, Instance: "here"}, tracker.close
}

func TestFinishedPushesAreKnownAfterARestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	s, end := kept(t, file)
	for i := range 3 {
		s.Tracker.journal.write(finishedPush(i))
	}
	end()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
	// A line that a power cut has torn, and one that somebody has damaged.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("{\"id\": 3}\n\x00\x00\n{\"id\":\"torn\",\"state\":\"do")
	f.Close()
	s, end = kept(t, file)
	pushes, next := s.finished(all, Query{})
	if len(pushes) != 3 || next != "" || pushes[0].ID != "push000002" {
		t.Errorf("%d pushes, then %q: %+v", len(pushes), next, pushes)
	}
	if p, ok := s.push(all, "push000001"); !ok || len(p.Steps) != 24 || len(p.Blobs) != 8 {
		t.Errorf("one of them: %+v", p)
	}
	s.Tracker.journal.write(finishedPush(3))
	end()
	text, _ := os.ReadFile(file)
	if strings.Contains(string(text), "torn") {
		t.Error("the torn line is still there, and what follows is lost behind it")
	}
	s, end = kept(t, file)
	defer end()
	if _, ok := s.push(all, "push000003"); !ok {
		t.Error("what was written after the torn line is lost")
	}
}

func TestTheFileOfFinishedPushesIsBounded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	s, end := kept(t, file)
	p := finishedPush(0)
	p.Why = strings.Repeat("x", 1<<20)
	for i := range 40 {
		p.ID, p.Finished = fmt.Sprintf("p%d", i), p.Finished.Add(time.Second)
		s.Tracker.journal.write(p)
	}
	end()
	total := int64(0)
	for _, name := range []string{file, file + ".1"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*journalBytes+2<<20 {
		t.Errorf("%d bytes", total)
	}
	s, end = kept(t, file)
	defer end()
	if _, ok := s.push(all, "p39"); !ok {
		t.Error("the newest is lost")
	}
}

func TestTheOldestPushesGoWhenThereAreTooMany(t *testing.T) {
	t.Parallel()
	s, end := kept(t, "")
	defer end()
	h := &s.Tracker.history
	for i := range mostFinished + 10 {
		s.Tracker.seq++
		h.add(finishedPush(i), s.Tracker.seq)
	}
	if len(h.items) != mostFinished || len(h.byID) != mostFinished || h.floor != 10 {
		t.Errorf("%d pushes, %d by id, floor %d", len(h.items), len(h.byID), h.floor)
	}
	if h.bytes > 20<<20 {
		t.Errorf("they have %d MiB", h.bytes>>20)
	}
	if _, ok := s.resumed("here-9"); ok {
		t.Error("a stream that missed pushes that are gone goes on without a snapshot")
	}
	if at, ok := s.resumed("here-10010"); !ok || at != 10010 {
		t.Error("a stream that knows all gets a snapshot")
	}
}

func TestFinishedPushesAreListedInPagesAndFound(t *testing.T) {
	t.Parallel()
	s, end := kept(t, "")
	defer end()
	for i := range 100 {
		p := finishedPush(i)
		if i%10 == 0 {
			p.State = Failed
		}
		if i%2 == 1 {
			p.Principal = "bob"
		}
		s.Tracker.seq++
		s.Tracker.history.add(p, s.Tracker.seq)
	}
	// Some that are still at hand.
	for i := 100; i < 103; i++ {
		p := finishedPush(i)
		s.Tracker.byID[p.ID] = &tracked{Push: p, over: true}
	}
	seen := []string{}
	for q, n := (Query{Limit: 20}), 0; n < 10; n++ {
		pushes, next := s.finished(all, q)
		for _, p := range pushes {
			seen = append(seen, p.ID)
			if len(p.Steps) > 0 {
				t.Fatal("steps in a list")
			}
		}
		if q.Before = next; next == "" {
			break
		}
	}
	if len(seen) != 103 || seen[0] != "push000102" || seen[102] != "push000000" {
		t.Errorf("%d pushes, from %s to %s", len(seen), seen[0], seen[len(seen)-1])
	}
	for want, q := range map[int]Query{
		15: {Text: "ACME/app3"}, 1: {Text: "v42"}, 10: {State: "failed"}, 0: {Text: "nothing"}, 2: {Text: "app0", State: "failed"},
	} {
		if got, _ := s.finished(all, q); len(got) != want {
			t.Errorf("%+v finds %d, want %d", q, len(got), want)
		}
	}
	if got, _ := s.finished(Viewer{Principal: "bob"}, Query{Limit: 500}); len(got) != 50 {
		t.Errorf("bob sees %d", len(got))
	}
	if got, next := s.finished(all, Query{Before: "unknown"}); len(got) != 0 || next != "" {
		t.Errorf("before one that is not known: %d", len(got))
	}
}
