package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

// queueRig is a rig with a Queue that runs, in fake time.
type queueRig struct {
	*rig
	*Queue
	stop func()

	mu     sync.Mutex
	owner  metadata.Owner // of alice's present credential
	policy Policy
	news   []Report
	fail   func(*http.Request) int
}

func queueTest(t *testing.T, test func(*queueRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := &queueRig{rig: memoryRig(t, &upstreamtest.Registry{}), owner: ownerOf("alice")}
		q.reg.Fail = func(r *http.Request) int {
			q.mu.Lock()
			fail := q.fail
			q.mu.Unlock()
			if fail == nil {
				return 0
			}
			return fail(r)
		}
		q.open()
		t.Cleanup(func() { q.stop() })
		test(q)
	})
}

// open is what a start of the program does; stop is its end.
func (q *queueRig) open() {
	q.t.Helper()
	q.Queue = &Queue{
		Forward: q.Forwarder, Target: func(_ context.Context, principal, _ string) (*Target, error) { return q.reach(principal), nil },
		Policy: func(string) Policy {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.policy
		},
		Report: func(r Report) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.news = append(q.news, r)
		},
	}
	damaged, err := q.Open(q.t.Context())
	noError(q.t, err)
	if len(damaged) > 0 {
		q.t.Fatalf("damaged: %v", damaged)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { q.Run(ctx) })
	q.stop = func() {
		cancel()
		ended.Wait()
	}
}

func (q *queueRig) reach(principal string) *Target {
	t := q.target(principal)
	t.Owner = func(context.Context, oci.Repo) (metadata.Owner, error) {
		q.mu.Lock()
		defer q.mu.Unlock()
		if principal != "alice" {
			return ownerOf(principal), nil
		}
		if q.owner == (metadata.Owner{}) {
			return q.owner, oci.ErrDenied.With("no credential today")
		}
		return q.owner, nil
	}
	return t
}

func (q *queueRig) is(owner metadata.Owner) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.owner = owner
}

// fails makes the upstream answer everything with a status; 0: nothing.
func (q *queueRig) fails(status int) { q.failing(func(*http.Request) int { return status }) }

func (q *queueRig) failing(fail func(*http.Request) int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fail = fail
}

// accept has a principal push one blob asynchronously.
func (q *queueRig) accept(principal, name, tag, content string) metadata.Job {
	q.t.Helper()
	b := q.blob(content, large)
	q.give(principal, b)
	m := q.image(b)
	q.call(m.Digest(digest.SHA256), "image-"+content)
	j, err := q.Accept(q.t.Context(), Job{Target: q.reach(principal), Repo: repo(name), Manifest: m, Digest: m.Digest(digest.SHA256), Tag: tag}, "a test's")
	noError(q.t, err)
	return j
}

// after lets time pass.
func (q *queueRig) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// has fails unless the upstream's tag is the job's manifest.
func (q *queueRig) has(name, tag string, j metadata.Job) {
	q.t.Helper()
	raw, _, ok := q.reg.Manifest(name, tag)
	if !ok || digest.FromBytes(raw) != j.Digest {
		q.t.Errorf("%s:%s is not what was pushed (there: %t)", name, tag, ok)
	}
}

func (q *queueRig) states() (list []string) {
	for _, j := range q.Jobs() {
		list = append(list, j.State)
	}
	return list
}

func TestAnAcceptedPushReachesTheUpstreamAndIsForgotten(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		j := q.accept("alice", "app", "v1", "a")
		q.after(0)
		q.has("app", "v1", j)
		if len(q.Jobs()) != 0 || len(q.news) != 1 || !q.news[0].Done {
			q.t.Errorf("left over: %v, told: %v", q.Jobs(), q.news)
		}
		for j, err := range q.meta.Jobs(q.t.Context()) {
			q.t.Errorf("still in the journal: %v, %v", j, err)
		}
	})
}

func TestJobsSurviveAnOutageAndAreDoneSoonAfterIt(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(*http.Request) int{
		"503":                         func(*http.Request) int { return 503 },
		"429":                         func(*http.Request) int { return 429 },
		"no answer":                   func(*http.Request) int { panic(http.ErrAbortHandler) },
		"only what changes something": func(r *http.Request) int { return map[bool]int{true: 500}[r.Method != "GET" && r.Method != "HEAD"] },
		"only the blobs":              func(r *http.Request) int { return map[bool]int{true: 502}[strings.Contains(r.URL.Path, "/blobs/")] },
		"only manifests, as of one image": func(r *http.Request) int {
			return map[bool]int{true: 500}[r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/")]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queueTest(t, func(q *queueRig) {
				q.failing(outage)
				var jobs []metadata.Job
				for i := range 12 {
					jobs = append(jobs, q.accept("alice", "app", fmt.Sprintf("v%d", i), fmt.Sprint("a", i)))
				}
				q.after(10 * time.Minute)
				if len(q.Jobs()) != 12 {
					q.t.Fatalf("%d of 12 jobs are left in the outage: %v", len(q.Jobs()), q.states())
				}
				if n := len(q.reg.Log()); n > 1500 {
					q.t.Errorf("the upstream was asked %d times in ten minutes", n)
				}
				q.fails(0)
				q.after(40 * time.Second)
				for i, j := range jobs {
					q.has("app", fmt.Sprintf("v%d", i), j)
				}
				if len(q.Jobs()) != 0 {
					q.t.Errorf("left: %v", q.states())
				}
			})
		})
	}
}

func TestATagEndsAtItsLastWriteAndOlderDigestsStillGo(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.fails(503)
		old, middle, last := q.accept("alice", "app", "v1", "old"), q.accept("alice", "app", "v1", "middle"), q.accept("alice", "app", "v1", "last")
		q.after(time.Minute)
		q.requests()
		q.fails(0)
		q.after(2 * time.Minute)
		q.has("app", "v1", last)
		for _, j := range []metadata.Job{old, middle} {
			q.has("app", j.Digest.String(), j)
		}
		var puts []string
		for _, r := range q.requests() {
			if strings.HasPrefix(r, "PUT app:") {
				puts = append(puts, r)
			}
		}
		slices.Sort(puts)
		if want := []string{"PUT app:image-middle", "PUT app:image-old", "PUT app:v1"}; !slices.Equal(puts, want) {
			q.t.Errorf("the upstream saw %v, want %v", puts, want)
		}
	})
}

func TestAnOlderJobThatIsStuckDoesNotComeBackOverANewerOne(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.is(ownerOf("somebody else"))
		j := q.accept("bob", "app", "v1", "bob's")
		q.after(0)
		q.has("app", "v1", j)
		// Alice's job is accepted with a credential that is gone when it runs.
		q.is(ownerOf("alice"))
		q.fails(503)
		older := q.accept("alice", "app", "v1", "alice's")
		q.is(metadata.Owner{})
		q.fails(0)
		q.after(time.Minute)
		newer := q.accept("bob", "app", "v1", "bob's newer")
		q.after(time.Minute)
		q.has("app", "v1", newer)
		q.is(ownerOf("alice"))
		q.after(time.Minute)
		q.has("app", "v1", newer)
		q.has("app", older.Digest.String(), older)
	})
}

func TestAPushWhoseClientWaitsWinsOverOlderJobs(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.fails(503)
		older := q.accept("alice", "app", "v1", "older")
		q.after(time.Second)
		release, err := q.Hold(q.t.Context(), repo("app"), []string{"v1"})
		noError(q.t, err)
		q.fails(0)
		q.after(5 * time.Minute)
		if _, _, ok := q.reg.Manifest("app", "v1"); ok {
			q.t.Error("a job wrote a tag that somebody else holds")
		}
		b := q.blob("newer", tiny)
		q.give("alice", b)
		q.pushed("alice", "app", "v1", q.image(b))
		noError(q.t, release(q.t.Context(), true))
		q.after(time.Minute)
		if raw, _, _ := q.reg.Manifest("app", "v1"); digest.FromBytes(raw) == older.Digest {
			q.t.Error("the tag ended at the older write")
		}
		q.has("app", older.Digest.String(), older)
		if len(q.Jobs()) != 0 {
			q.t.Errorf("left: %v", q.states())
		}
	})
}

func TestAJobIsNeverSentWithAnotherIdentity(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.fails(503)
		j := q.accept("alice", "app", "v1", "a")
		q.after(time.Second)
		q.fails(0)
		q.is(ownerOf("mallory"))
		q.requests()
		q.after(time.Hour)
		if got := q.requests(); len(got) > 200 || slices.ContainsFunc(got, func(r string) bool { return r != "GET /v2/" }) {
			q.t.Errorf("sent with another identity: %v", got)
		}
		if got := q.Jobs(); len(got) != 1 || got[0].State != metadata.JobNeedsAuth || !strings.Contains(got[0].Error, "--adopt "+j.ID) {
			q.t.Fatalf("got %+v, want one that needs-auth and says what to do", got)
		}
		q.is(ownerOf("alice"))
		q.after(credentialEvery)
		q.has("app", "v1", j)
	})
}

func TestAPersonMayHaveAJobSentWithTheCredentialThatThereIs(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.fails(503)
		j := q.accept("alice", "app", "v1", "a")
		q.is(ownerOf("alice's other account"))
		q.fails(0)
		q.after(time.Minute)
		if _, err := q.Retry(q.t.Context(), j.ID, true); err != nil {
			q.t.Fatal(err)
		}
		q.after(time.Second)
		q.has("app", "v1", j)
	})
}

func TestWhatTheUpstreamRefusesIsParkedWithItsReasonAndNeverDropped(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.failing(func(r *http.Request) int {
			return map[bool]int{true: 400}[strings.HasSuffix(r.URL.Path, "/manifests/v1")]
		})
		j, fine := q.accept("alice", "app", "v1", "a"), q.accept("alice", "app", "v2", "b")
		q.after(time.Hour)
		q.has("app", "v2", fine)
		got := q.Jobs()
		if len(got) != 1 || got[0].State != metadata.JobParked || !strings.Contains(got[0].Error, "refused") {
			q.t.Fatalf("got %+v, want one that is parked and says why", got)
		}
		if len(q.news) != 2 || q.news[1].Done || q.news[1].Job.State != metadata.JobParked {
			q.t.Errorf("told of %+v, want the job that is done, then once of the one that is parked", q.news)
		}
		stuck, err := q.Wait(q.t.Context(), repo("app"), "v1", nil)
		if err != nil || stuck == nil || stuck.ID != j.ID {
			q.t.Errorf("waiting for it: %v, %v", stuck, err)
		}
		q.stop()
		q.fails(0)
		q.open()
		q.after(time.Hour)
		if got := q.Jobs(); len(got) != 1 || got[0].State != metadata.JobParked {
			q.t.Fatalf("after a restart: %+v", got)
		}
		if _, err := q.Retry(q.t.Context(), j.ID, false); err != nil {
			q.t.Fatal(err)
		}
		q.after(time.Second)
		q.has("app", "v1", j)
	})
}

func TestJobsGoOnAfterARestart(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.fails(503)
		j := q.accept("alice", "app", "v1", "a")
		q.after(20 * time.Minute)
		q.stop()
		q.fails(0)
		q.open()
		if !q.Needed()[j.Digest] || len(q.Needed()) != 2 {
			q.t.Errorf("needed after a restart: %v", q.Needed())
		}
		q.after(time.Second)
		q.has("app", "v1", j)
	})
}

func TestARetryAfterIsWaitedOutAndEndsNobodyElsesTurn(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.reg.Inject(upstreamtest.Fault{Method: "PUT", Path: "/manifests/", Status: 503, RetryAfter: "900"})
		j := q.accept("alice", "app", "v1", "a")
		q.after(14 * time.Minute)
		if _, _, ok := q.reg.Manifest("app", "v1"); ok {
			q.t.Error("the upstream was asked again before it wanted to be")
		}
		q.after(2 * time.Minute)
		q.has("app", "v1", j)
	})
}

func TestNothingBeginsInQuietHours(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		now := time.Now()
		at := time.Duration(now.Hour())*time.Hour + time.Duration(now.Minute())*time.Minute
		q.mu.Lock()
		q.policy.Quiet = []Window{{From: at, To: (at + 2*time.Hour) % (24 * time.Hour)}}
		q.mu.Unlock()
		j := q.accept("alice", "app", "v1", "a")
		q.after(2*time.Hour - time.Second)
		if got := q.requests(); len(got) > 0 {
			q.t.Errorf("sent in quiet hours: %v", got)
		}
		q.after(2 * time.Second)
		q.has("app", "v1", j)
	})
}

func TestADroppedJobStopsAndIsGone(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.reg.Inject(upstreamtest.Fault{Path: "/blobs/", Delay: time.Hour})
		j := q.accept("alice", "app", "v1", "a")
		q.after(time.Second)
		if _, err := q.Drop(q.t.Context(), j.ID); err != nil {
			q.t.Fatal(err)
		}
		if _, err := q.Drop(q.t.Context(), j.ID); !errors.Is(err, oci.ErrNotFound) {
			q.t.Errorf("dropped twice: %v", err)
		}
		q.stop()
		q.open()
		q.after(time.Hour)
		if _, _, ok := q.reg.Manifest("app", "v1"); ok || len(q.Jobs()) != 0 {
			q.t.Errorf("a dropped job went on: %v", q.Jobs())
		}
	})
}

func TestWhatIsNotHereIsNotPromised(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		here, others, upstream := q.blob("here", tiny), q.blob("others", tiny), q.blob("upstream", tiny)
		q.give("alice", here)
		q.give("bob", others)
		q.reg.AddBlob("app", upstream)
		for name, c := range map[string]struct {
			blobs [][]byte
			down  bool
			want  error
		}{
			"a blob that nobody has":               {blobs: [][]byte{here, q.blob("nobody", tiny)}, want: oci.ErrManifestBlobUnknown},
			"a blob that another principal has":    {blobs: [][]byte{here, others}, want: oci.ErrManifestBlobUnknown},
			"a blob that only the upstream has":    {blobs: [][]byte{here, upstream}},
			"one of which it cannot be asked":      {blobs: [][]byte{here, q.blob("far", tiny)}, down: true, want: oci.ErrManifestBlobUnknown},
			"all that is here, without a question": {blobs: [][]byte{here}, down: true},
		} {
			if c.down {
				q.fails(503)
			}
			m := q.image(c.blobs...)
			began := time.Now()
			_, err := q.Accept(q.t.Context(), Job{Target: q.reach("alice"), Repo: repo("app"), Manifest: m, Digest: m.Digest(digest.SHA256), Tag: "v1"}, "")
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				q.t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			if took := time.Since(began); took > 2*time.Second {
				q.t.Errorf("%s: it took %s to say so", name, took)
			}
			q.after(0)
			q.fails(0)
		}
	})
}

func TestWhatIsQueuedCanBeReadBackByWhoPushedIt(t *testing.T) {
	t.Parallel()
	queueTest(t, func(q *queueRig) {
		q.fails(503)
		old, j := q.accept("alice", "app", "v1", "old"), q.accept("alice", "app", "v1", "a")
		for reference, want := range map[string]digest.Digest{"v1": j.Digest, j.Digest.String(): j.Digest, old.Digest.String(): old.Digest, "v2": ""} {
			d, m, ok, err := q.Pending(q.t.Context(), "alice", repo("app"), reference)
			noError(q.t, err)
			if d != want || ok != (want != "") || ok && digest.FromBytes(m.Raw) != want {
				q.t.Errorf("%s is %s, %t; want %s", reference, d, ok, want)
			}
			if _, _, ok, _ := q.Pending(q.t.Context(), "bob", repo("app"), reference); ok {
				q.t.Errorf("bob sees alice's %s", reference)
			}
		}
		q.fails(0)
		q.after(time.Minute)
		if _, _, ok, _ := q.Pending(q.t.Context(), "alice", repo("app"), "v1"); ok {
			q.t.Error("what is done is still said to be queued")
		}
	})
}
