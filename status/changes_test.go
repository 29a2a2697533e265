package status

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhatIsNewAboutAPushIsToldOnceInALineEach(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	push := func(s State, blobs ...Blob) Push {
		return Push{ID: "p1", Principal: "local", Agent: "docker/29", Upstream: "registry.test", Repository: "acme/app", Tags: []string{"v1"}, State: s, Started: now.Add(-2 * time.Second), Blobs: blobs}
	}
	comes := Blob{Upload: "u1", Size: -1, State: BlobReceiving, Received: 5_000_000}
	known := Blob{Upload: "u1", Digest: "sha256:111122223333444", Size: 9_000_000, State: BlobPushing, Sent: 1_000_000, ReceiveEnded: now}
	named, broke := comes, Blob{Upload: "u2", Size: -1, State: BlobFailed, Why: "the client left"}
	named.Digest = known.Digest
	further, there := known, known
	further.Sent, there.State = 8_000_000, BlobPushed
	for _, c := range []struct {
		name          string
		before, after Push
		want          []string
	}{
		{"a push that begins", Push{}, push(Receiving, comes), []string{
			"registry.test/acme/app:v1: push p1 by local, docker/29", "registry.test/acme/app:v1: digest to be: Receiving 5.00 MB", "registry.test/acme/app:v1: receiving for 2 s"}},
		{"a blob that gets its digest and goes on", push(Receiving, comes), push(Receiving, known), []string{
			"registry.test/acme/app:v1: 111122223333: Pushing 1.00 MB of 9.00 MB"}},
		{"more bytes of the same", push(Receiving, known), push(Receiving, further), nil},
		{"a blob that is there, and the manifest", push(Receiving, further), push(Pushing, there), []string{
			"registry.test/acme/app:v1: 111122223333: Pushed (9.00 MB)", "registry.test/acme/app:v1: pushing for 2 s"}},
		{"nothing", push(Pushing, there), push(Pushing, there), nil},
		{"a blob that only gets its digest", push(Receiving, comes), push(Receiving, named), nil},
		{"blobs whose digests nobody knows", push(Receiving, comes, broke), push(Receiving, comes, broke), nil},
		{"a push that is seen when it is over", Push{}, push(Unchanged), []string{
			"registry.test/acme/app:v1: unchanged: the upstream had it already, seen in 2 s"}},
	} {
		if got := PushChanges(c.before, c.after, now); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestWhatIsNewElsewhereIsToldOnceInALineEach(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	job := func(id, state, why string) Job {
		return Job{ID: id, Upstream: "registry.test", Repository: "acme/app", Reference: "v1", State: state, Why: why}
	}
	later := job("j1", "waiting", "no answer")
	later.NextTry = now.Add(5 * time.Second)
	up := Upstream{Host: "registry.test", Reachable: "yes", Limits: []string{"429 at 14:01"}}
	down, paused := up, up
	down.Reachable, down.Why = "no", "connection refused"
	paused.Limits, paused.Paused = append(paused.Limits[:1:1], "429 at 14:03"), now.Add(time.Minute)
	for _, c := range []struct {
		name      string
		got, want []string
	}{
		{"a job", QueueChanges(nil, []Job{later}, now), []string{"registry.test/acme/app:v1: job j1 is waiting: no answer; tried again in 5 s"}},
		{"the same jobs", QueueChanges([]Job{later}, []Job{job("j1", "waiting", "no answer")}, now), nil},
		{"another state, another gone", QueueChanges([]Job{job("j1", "waiting", ""), job("j2", "waiting", "")}, []Job{job("j1", "parked", "403")}, now),
			[]string{"registry.test/acme/app:v1: job j1 is parked: 403", "registry.test/acme/app:v1: job j2 left the queue"}},
		{"an upstream that is fine", UpstreamChanges(Upstream{}, Upstream{Host: "registry.test", Reachable: "yes"}, now), nil},
		{"an upstream that goes", UpstreamChanges(up, down, now), []string{"upstream registry.test: not reachable: connection refused"}},
		{"an upstream that was never there", UpstreamChanges(Upstream{}, down, now), []string{"upstream registry.test: not reachable: connection refused", "upstream registry.test: limit: 429 at 14:01"}},
		{"an upstream that is back", UpstreamChanges(down, up, now), []string{"upstream registry.test: reachable again"}},
		{"a limit", UpstreamChanges(up, paused, now), []string{"upstream registry.test: limit: 429 at 14:03", "upstream registry.test: paused for 1 min 0 s"}},
		{"a full disk", StoreChanges(Store{}, Store{ReadOnly: "the disk is full"}), []string{"store: read-only: the disk is full"}},
		{"room again", StoreChanges(Store{ReadOnly: "the disk is full"}, Store{Blobs: 1}), []string{"store: takes pushes again"}},
		{"more blobs", StoreChanges(Store{}, Store{Blobs: 1}), nil},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s:\n%s\nwant:\n%s", c.name, strings.Join(c.got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}
