package status

import (
	"bufio"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
	if p, ok := s.push(all, pushing.ID); ok {
		t.Errorf("the one that was never over: %+v", p)
	}
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
