package forward

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 5 * time.Minute
	// longestAfter is the longest Retry-After that is believed.
	longestAfter = time.Hour
	// poisonAfter is how often an upstream may refuse a job for what it is
	// before a person has to look at it: a refusal can be a passing fault too.
	poisonAfter = 3
	// … and how often where the refusal may come of what went wrong before it: a
	// session that was lost, a blob that was not stored.
	doubtfulAfter = 20
	doubtfulRetry = time.Minute
	// credentialEvery is how often a credential that is not there is looked for.
	// That asks this machine only.
	credentialEvery = 10 * time.Second
	// keepTrying bounds how long the end of an attempt is tried to be written down.
	keepTrying = 10 * time.Second
)

// finish writes down how an attempt at a job ended, which was about that and
// wrote tags; cause is why its context ended.
func (q *Queue) finish(ctx context.Context, j *queued, about metadata.Job, tags []string, cause error, did *sent, err error) {
	ctx, cancel := context.WithTimeout(ctx, keepTrying)
	defer cancel()
	stopped := err != nil && cause != nil || errors.Is(err, ErrClosed)
	if err == nil {
		// Before the job is forgotten, and while its tags are still claimed.
		err = q.settle(ctx, about, tags)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.nudge()
	defer q.tell()
	h := q.health(j.Repo.Host)
	h.running--
	q.unclaim(j)
	close(j.done)
	j.done = nil
	switch {
	case errors.Is(cause, errDropped):
		return // whoever dropped it forgets it
	case stopped:
		j.State = about.State
		q.Forward.tell(q.about(j.Job, Accepted))
		return
	case err == nil:
		if h.ailing() {
			h.well()
			q.hurry(j.Repo.Host)
		}
		delete(q.jobs, j.ID)
		q.report(Report{Job: j.Job, Done: true, Result: did.Result, Credential: did.credential})
		return
	}
	q.failed(ctx, j, h, did.credential, err)
}

// settle forgets a job that is done: the tags that it wrote are taken from older
// jobs first.
func (q *Queue) settle(ctx context.Context, j metadata.Job, tags []string) error {
	if err := q.strip(ctx, j.Repo, tags, j.ID); err != nil {
		return err
	}
	return q.Forward.meta.RemoveJob(ctx, j.ID)
}

// failed decides what becomes of a job after a failure. It needs q.mu.
func (q *Queue) failed(ctx context.Context, j *queued, h *health, credential string, err error) {
	e := oci.AsError(err)
	next := j.Job
	next.Attempts++
	next.Error = e.Message
	next.State, j.quick = metadata.JobQueued, false
	delay := backoff(next.Attempts)
	var lost errLost
	var stranger strangers
	switch {
	case errors.As(err, &lost):
		next.State = metadata.JobParked
	case errors.As(err, &stranger):
		next.State, delay = metadata.JobNeedsAuth, credentialEvery
		next.Error = err.Error()
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		next.State = metadata.JobNeedsAuth
	case e.Status/100 == 5 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout:
		j.quick = true
		h.ill(e.After, upstream.Unreachable(err), e.Status == http.StatusTooManyRequests)
	case doubtful(e):
		delay = min(delay, doubtfulRetry)
		if j.turned++; j.turned >= doubtfulAfter {
			next.State = metadata.JobParked
		}
	default:
		if j.turned++; j.turned >= poisonAfter {
			next.State = metadata.JobParked
		}
	}
	if j.quick {
		j.turned = 0
	}
	next.NotBefore = time.Now().Add(max(delay, min(e.After, longestAfter))).UTC()
	news := next.State != metadata.JobQueued && next.State != j.told
	// What cannot be written down is still known here, and the next process
	// begins as if it had not been tried.
	if stored, err := q.Forward.meta.UpdateJob(ctx, next); err == nil {
		next = stored
	}
	j.Job = next
	again := q.about(next, Accepted)
	if next.State == metadata.JobParked {
		again.Status = Parked
	}
	again.Delay = time.Until(next.NotBefore)
	q.Forward.tell(again)
	if news {
		j.told = next.State
		q.report(Report{Job: next, Credential: credential})
	}
}

// doubtful reports whether a refusal may be one of a state that another attempt
// does not find again.
func doubtful(e *oci.Error) bool {
	return slices.Contains([]string{oci.ErrBlobUploadUnknown.Code, oci.ErrBlobUploadInvalid.Code, oci.ErrBlobUnknown.Code, oci.ErrManifestBlobUnknown.Code,
		oci.ErrDigestInvalid.Code, oci.ErrSizeInvalid.Code}, e.Code)
}

func (q *Queue) report(r Report) {
	if q.Report != nil {
		q.Report(r)
	}
}

// hurry makes the jobs that failed for their upstream's sake due: it works
// again. It needs q.mu.
func (q *Queue) hurry(host string) {
	for _, j := range q.jobs {
		if j.Repo.Host == host && j.quick {
			j.NotBefore = time.Time{}
		}
	}
}

// backoff is how long to wait after the n-th failure in a row: twice as long
// each time, half of it by chance.
func backoff(n int) time.Duration {
	delay := lastRetry
	if n < 12 {
		delay = min(lastRetry, firstRetry<<max(0, n-1))
	}
	return delay/2 + rand.N(delay/2+1)
}
