package status

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/upstream/upstreamtest"
)

func TestAPushOfWhichNothingIsHeardForAnHourHasStopped(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		in := r.incoming("acme/lost", "u1", 0)
		in.Got(100)
		lost := r.now()[0].ID
		var back atomic.Bool
		r.reg.Fail = func(*http.Request) int {
			if back.Load() {
				return 0
			}
			return http.StatusServiceUnavailable
		}
		queued := r.promise("ann", "acme/queued", "v1", content("queued", 100))
		time.Sleep(59 * time.Minute)
		if p := r.know(lost); p.State != Receiving {
			t.Errorf("before the hour is over: %+v", p)
		}
		time.Sleep(2 * time.Minute)
		if p := r.know(lost); p.State != Stopped || !strings.Contains(p.Why, "for an hour") {
			t.Errorf("after an hour: %+v", p)
		}
		if p := r.know(queued.Push); p.State != Queued && p.State != Pushing {
			t.Errorf("one that is in the queue: %+v", p)
		}
		back.Store(true)
		time.Sleep(time.Hour)
		if p := r.know(queued.Push); p.State != Done {
			t.Errorf("in the end: %+v", p)
		}
	})
}

func TestWhatWasUnderWayAtAStopIsKnownAfterIt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	bubble(t, file, func(t *testing.T, r *rig) {
		r.incoming("acme/app", "u1", 0).Got(100)
		begun := r.now()[0].ID
		config := content("config", 100)
		r.receive("ann", "acme/done", config)
		done := r.pushed("ann", "acme/done", "v1", r.image(config))
		r.end()
		r.start(file)
		synctest.Wait()
		if p := r.know(begun); p.State != Stopped || !strings.Contains(p.Why, "push again") || p.Finished.IsZero() {
			t.Errorf("one that was under way: %+v", p)
		}
		if p := r.know(done.ID); p.State != Done || p.Why != "" || !p.Finished.Equal(done.Finished) || len(p.Steps) != len(done.Steps) {
			t.Errorf("one that had just ended: %+v", p)
		}
		if n := len(r.server.snapshot(all).Finished); n != 2 {
			t.Errorf("%d pushes are known, want two", n)
		}
	})
}

// A kill leaves what was written down until then: a copy of the file is what the next process finds.
func TestAPushThatAKillCutsOffIsKnownAfterIt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	bubble(t, file, func(t *testing.T, r *rig) {
		config, layer := content("config", 100), content("layer", 5000)
		r.receive("ann", "acme/done", config)
		done := r.pushed("ann", "acme/done", "v1", r.image(config))
		r.incoming("acme/began", "u1", 1000).Got(100)
		began := r.now()[0].ID
		r.receive("ann", "acme/app", config)
		r.receive("ann", "acme/app", layer)
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPut, Path: "/manifests/", Times: -1, Delay: time.Minute})
		synctest.Wait()
		job, err := r.forward.Submit(r.t.Context(), r.job("ann", "acme/app", "v2", r.image(config, layer)))
		r.must(err)
		synctest.Wait()
		if written, err := os.ReadFile(file); err != nil || !strings.Contains(string(written), `"tags":["v2"]`) {
			t.Errorf("a manifest is here and not written down: %v", err)
		}
		r.receive("ann", "acme/queued", content("queued", 100))
		synctest.Wait()
		queued := r.promise("ann", "acme/queued", "v1", content("queued", 100))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		killed := time.Now()
		found := filepath.Join(t.TempDir(), "found.jsonl")
		written, err := os.ReadFile(file)
		r.must(err)
		// The line that says that the queued one was accepted came too late.
		lines := slices.DeleteFunc(strings.SplitAfter(string(written), "\n"), func(line string) bool { return strings.Contains(line, queued.ID) })
		r.must(os.WriteFile(found, []byte(strings.Join(lines, "")), 0o600))
		r.must(os.Chtimes(found, killed, killed))
		r.end()
		for _, start := range []string{"first", "second"} {
			time.Sleep(time.Hour)
			r.start(found)
			synctest.Wait()
			const why = "pushproxy ended while this push was under way"
			p := r.know(began)
			if p.State != Stopped || !strings.Contains(p.Why, why) || !strings.Contains(p.Why, "push again") || p.Agent == "" || p.Repository != "acme/began" {
				t.Errorf("%s start: one that had begun: %+v", start, p)
			}
			p = r.know(job.ID)
			if p.State != Stopped || !strings.Contains(p.Why, why) || !slices.Equal(p.Tags, []string{"v2"}) || p.Digest == "" || p.Credential == "" || len(p.Steps) == 0 || !p.Finished.Equal(killed) {
				t.Errorf("%s start: one whose manifest was there: %+v", start, p)
			}
			if len(p.Blobs) != 2 || !p.Blobs[0].State.there() || !p.Blobs[1].State.there() {
				t.Errorf("%s start: its blobs were upstream, and are shown as %v", start, blobStates(p))
			}
			if p := r.know(began); len(p.Blobs) != 1 || p.Blobs[0].State != BlobFailed || !strings.Contains(p.Blobs[0].Why, "written down") {
				t.Errorf("%s start: a blob that was coming: %+v", start, p.Blobs)
			}
			if p := r.know(done.ID); p.State != Done {
				t.Errorf("%s start: one that was done: %+v", start, p)
			}
			if p := r.know(queued.Push); p.State == Stopped || p.Job != queued.ID || !p.Async || !slices.Equal(p.Tags, []string{"v1"}) {
				t.Errorf("%s start: one that is in the queue: %+v", start, p)
			}
			if n := len(r.server.snapshot(all).Finished); start == "first" && n != 3 {
				t.Errorf("%d finished pushes, want three", n)
			}
			r.end()
		}
	})
}

func TestAPushWhoseEndWasNotWrittenDownIsNotShownAsGoingOn(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	s, end := kept(t, file)
	queued, pushing := finishedPush(1), finishedPush(2)
	queued.State, queued.Job, queued.Finished = Queued, "j1", time.Time{}
	pushing.State, pushing.Finished = Pushing, time.Time{}
	s.Tracker.journal.write(queued)
	s.Tracker.journal.write(pushing)
	end()
	s, end = kept(t, file)
	defer end()
	if p, ok := s.push(all, queued.ID); !ok || p.State != Stopped || p.Finished.IsZero() || !strings.Contains(p.Why, "not in the queue any more") {
		t.Errorf("the one that was queued: %+v", p)
	}
	if p, ok := s.push(all, pushing.ID); !ok || p.State != Stopped || p.Finished.IsZero() || !strings.Contains(p.Why, "push again") {
		t.Errorf("the one that was never over: %+v", p)
	}
}

func TestALongPushIsWrittenDownLessAndLessOften(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	bubble(t, file, func(t *testing.T, r *rig) {
		in := r.incoming("acme/app", "u1", 1<<40)
		for i := range 3600 {
			in.Got(1000)
			time.Sleep(time.Second)
			synctest.Wait()
			lines := strings.Count(readAll(t, file), "\n")
			if i == 60 && (lines < 4 || lines > 8) || lines > 60 {
				t.Fatalf("after %d s it is written down %d times", i, lines)
			}
		}
	})
}

func TestWhatIsWrittenDownOfAPushUnderWayIsShort(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	s, end := kept(t, file)
	p := finishedPush(0)
	p.State, p.Finished = Pushing, time.Time{}
	for len(p.Steps) < 500 {
		p.Steps = append(p.Steps, p.Steps[0])
	}
	s.Tracker.journal.note(p)
	for len(p.Blobs) < 1000 {
		p.Blobs = append(p.Blobs, p.Blobs[0])
	}
	s.Tracker.journal.note(p)
	end()
	for i, line := range strings.Split(strings.TrimSpace(readAll(t, file)), "\n") {
		if len(line) > 64<<10 || !strings.Contains(line, `"tags":["v0"]`) || strings.Contains(line, `"steps"`) || strings.Contains(line, `"Pushed"`) != (i == 0) {
			t.Errorf("line %d of %d bytes: %.500s", i, len(line), line)
		}
	}
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What has been put away is another's as much as what is at hand.
func TestNobodyIsToldOfOthersPushesOrTwice(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		config := content("config", 100)
		r.receive("ann", "acme/app", config)
		r.pushed("ann", "acme/app", "v1", r.image(config))
		r.receive("ann", "acme/now", config)
		for _, after := range []time.Duration{0, 2 * warmFor} {
			time.Sleep(after)
			synctest.Wait()
			if told, _ := r.server.since(Viewer{Principal: "bob"}, 0); len(told) > 0 {
				t.Errorf("after %s bob is told %q", after, told)
			}
			told, at := r.server.since(Viewer{Principal: "ann"}, 0)
			kinds := map[string]int{}
			for _, n := range told {
				kinds[n.name]++
			}
			if kinds["push"] != 2 || kinds["upstream"] != 1 {
				t.Errorf("after %s ann is told of %v", after, kinds)
			}
			if again, _ := r.server.since(all, at); len(again) > 0 {
				t.Errorf("after %s all is told again: %q", after, again)
			}
		}
	})
}

func TestAStreamOnWhichNothingHappensSaysThatItLives(t *testing.T) {
	t.Parallel()
	streaming(t, Viewer{Principal: "ann"}, func(t *testing.T, r *rig, open func(string) *page) {
		p := open("")
		p.begins(t)
		lines := make(chan string, 100)
		go func() {
			for s := bufio.NewScanner(p.lines); s.Scan(); {
				lines <- s.Text()
			}
		}()
		time.Sleep(4*heartbeat + time.Second)
		beats := 0
		for len(lines) > 0 {
			if line := <-lines; line == ":" {
				beats++
			} else if line != "" {
				t.Errorf("it said %q", line)
			}
		}
		if beats != 4 {
			t.Errorf("it said %d times in a minute that it lives, want 4", beats)
		}
		p.conn.Close()
	})
}
