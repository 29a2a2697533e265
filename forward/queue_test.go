package forward

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
)

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
	const longest = 40 * time.Second
	for name, c := range map[string]struct {
		fail func(*http.Request) int
		soon time.Duration
	}{
		"503":                         {func(*http.Request) int { return 503 }, 8 * time.Second},
		"429":                         {func(*http.Request) int { return 429 }, longest},
		"no answer":                   {func(*http.Request) int { panic(http.ErrAbortHandler) }, 4 * time.Second},
		"only what changes something": {func(r *http.Request) int { return map[bool]int{true: 500}[r.Method != "GET" && r.Method != "HEAD"] }, longest},
		"only the blobs":              {func(r *http.Request) int { return map[bool]int{true: 502}[strings.Contains(r.URL.Path, "/blobs/")] }, longest},
		"only manifests, as of one image": {func(r *http.Request) int {
			return map[bool]int{true: 500}[r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/")]
		}, longest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queueTest(t, func(q *queueRig) {
				q.failing(c.fail)
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
				q.after(c.soon)
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
