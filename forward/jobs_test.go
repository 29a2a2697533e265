package forward

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

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
		synctest.Wait()
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
		q.open()
		if !q.Needed()[j.Digest] || len(q.Needed()) != 2 {
			q.t.Errorf("needed after a restart: %v", q.Needed())
		}
		q.stop()
		q.fails(0)
		q.open()
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

func TestS21AJobOfTheSameIdentityUnderAnotherSecretIsMoved(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		formerly []metadata.Owner
		err      error
		sent     bool
	}{
		{"the same", []metadata.Owner{ownerOf("somebody"), ownerOf("alice")}, nil, true},
		{"another", []metadata.Owner{ownerOf("somebody")}, nil, false},
		{"one that cannot be had", nil, errors.New("the helper failed"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			queueTest(t, func(q *queueRig) {
				q.fails(503)
				j := q.accept("alice", "app", "v1", "a")
				q.after(time.Second)
				q.was(func() ([]metadata.Owner, error) { return test.formerly, test.err })
				q.is(ownerOf("alice under a new secret"))
				q.Rekey(q.t.Context())
				if got := q.Jobs()[0].Owner; (got == ownerOf("alice under a new secret")) != test.sent {
					q.t.Errorf("moved: %t", !test.sent)
				}
				// What was moved needs the old secret no longer.
				q.was(nil)
				q.fails(0)
				q.after(time.Hour)
				if test.sent {
					q.has("app", "v1", j)
				} else if got := q.Jobs(); len(got) != 1 || got[0].State != metadata.JobNeedsAuth {
					q.t.Errorf("got %+v, want one that waits", got)
				}
			})
		})
	}
}
