package status

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/upstream/upstreamtest"
)

// promise queues a push and returns its job.
func (r *rig) promise(principal, name, tag string, blob []byte) Job {
	r.t.Helper()
	r.receive(principal, name, blob)
	job, err := r.queue.Accept(r.t.Context(), r.job(principal, name, tag, r.image(blob)), principal+" from a test")
	r.must(err)
	return Job{ID: job.ID, Push: job.Push}
}

func TestAQueuedPushIsFollowedToItsEnd(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	bubble(t, file, func(t *testing.T, r *rig) {
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPut, Path: "/manifests/", Status: http.StatusBadGateway, Times: 5})
		job := r.promise("ann", "acme/app", "v1", content("blob", 70<<10))
		time.Sleep(10 * time.Millisecond)
		p := r.now()[0]
		if p.ID != job.Push || p.Job != job.ID || !p.Async || p.State != Pushing && p.State != Queued {
			t.Errorf("just accepted: %+v", p)
		}
		jobs := r.server.snapshot(all).Queue
		if len(jobs) != 1 || jobs[0].Push != job.Push || jobs[0].Reference != "v1" || jobs[0].Bytes < 70<<10 {
			t.Errorf("the queue: %+v", jobs)
		}
		time.Sleep(time.Minute)
		p = r.know(job.Push)
		if p.State != Done || p.Sum.Uploaded != 1 || p.Why != "" || len(r.server.snapshot(all).Queue) != 0 {
			t.Errorf("in the end: %+v", p)
		}
		// The queue asks an upstream that failed whether it is back: for no push.
		want := slices.DeleteFunc(r.asked(), func(s string) bool { return s == "token OK" })
		if !slices.Equal(told(p), want) {
			t.Errorf("told %q, the upstream answered %q", told(p), want)
		}
	})
}

func TestAQueuedPushKeepsItsIDOverARestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pushes.jsonl")
	bubble(t, file, func(t *testing.T, r *rig) {
		r.reg.Fail = func(*http.Request) int { return http.StatusServiceUnavailable }
		job := r.promise("ann", "acme/app", "v1", content("blob", 1000))
		time.Sleep(time.Minute)
		if p := r.know(job.Push); p.State != Queued && p.State != Pushing || p.State == Queued && p.Why == "" {
			t.Errorf("while the upstream is down: %s, %q", p.State, p.Why)
		}
		r.end()
		r.reg.Fail = nil
		r.start(file)
		synctest.Wait()
		if p := r.know(job.Push); p.Job != job.ID || len(p.Steps) == 0 {
			t.Errorf("after the restart: %+v", p)
		}
		time.Sleep(time.Minute)
		p := r.know(job.Push)
		if p.State != Done || p.Blobs[0].State != BlobPushed {
			t.Errorf("in the end: %+v", p)
		}
		r.end()
		r.start(file)
		if again := r.know(job.Push); again.State != Done || len(again.Steps) != len(p.Steps) {
			t.Errorf("after another restart: %+v", again)
		}
	})
}

func TestAJobThatNeedsAPersonAndOneThatIsDroppedAreOver(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		r.reg.Fail = func(req *http.Request) int {
			if strings.Contains(req.URL.Path, "/manifests/") {
				return http.StatusBadRequest
			}
			return 0
		}
		parked := r.promise("ann", "acme/app", "v1", content("blob", 1000))
		time.Sleep(10 * time.Minute)
		if p := r.know(parked.Push); p.State != Failed || !strings.Contains(p.Why, "queue retry "+parked.ID) {
			t.Errorf("the parked one: %+v", p)
		}
		if jobs := r.server.snapshot(all).Queue; len(jobs) != 1 || jobs[0].State != "parked" {
			t.Errorf("the queue: %+v", jobs)
		}
		r.reg.Fail = nil
		_, err := r.queue.Retry(t.Context(), parked.ID, false)
		r.must(err)
		time.Sleep(time.Minute)
		if p := r.know(parked.Push); p.State != Done {
			t.Errorf("after the retry: %+v", p)
		}
		r.reg.Fail = func(*http.Request) int { return http.StatusServiceUnavailable }
		dropped := r.promise("ann", "acme/app", "v2", content("other", 1000))
		time.Sleep(time.Second)
		_, err = r.queue.Drop(t.Context(), dropped.ID)
		r.must(err)
		synctest.Wait()
		if p := r.know(dropped.Push); p.State != Stopped || p.Why == "" {
			t.Errorf("the dropped one: %+v", p)
		}
	})
}
