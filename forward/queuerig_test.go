package forward

import (
	"context"
	"net/http"
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
	former func() ([]metadata.Owner, error)
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
		Formerly: func(context.Context, string, oci.Repo) ([]metadata.Owner, error) {
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.former == nil {
				return nil, nil
			}
			return q.former()
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

// was sets the owners of the present credential under earlier secrets.
func (q *queueRig) was(former func() ([]metadata.Owner, error)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.former = former
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
