package forward

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// Pending returns the manifest that a reference will mean upstream once the
// principal's jobs are done, if one of them is about it: what somebody pushed
// can be read back at once. Others see the upstream.
func (q *Queue) Pending(ctx context.Context, principal string, repo oci.Repo, reference string) (d digest.Digest, m metadata.Manifest, ok bool, err error) {
	q.mu.Lock()
	for _, j := range q.ordered() {
		if j.Principal == principal && j.Repo == repo && j.State != metadata.JobParked && j.about(reference) {
			d = j.Digest
			if reference != d.String() && !slices.Contains(j.Tags, reference) {
				d = digest.Digest(reference) // a child of an index
			}
		}
	}
	q.mu.Unlock()
	if d == "" {
		return "", metadata.Manifest{}, false, nil
	}
	m, ok, err = q.Forward.meta.Manifest(ctx, repo, d)
	return d, m, ok, err
}

// about reports whether the job is what a tag or a manifest's digest names.
func (j *queued) about(reference string) bool {
	return slices.Contains(j.Tags, reference) || slices.Contains(j.needs, digest.Digest(reference))
}

// Needed reports which blobs the jobs of the journal, whatever their state, and
// the pushes under way are made of: they must stay in the cache.
func (q *Queue) Needed() map[digest.Digest]bool {
	needed := map[digest.Digest]bool{}
	q.mu.Lock()
	for _, j := range q.jobs {
		for _, d := range j.needs {
			needed[d] = true
		}
	}
	q.mu.Unlock()
	f := q.Forward
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pushes {
		for _, d := range p.Manifest.Blobs {
			needed[d.Digest] = true
		}
	}
	for key := range f.flights {
		needed[key.digest] = true
	}
	return needed
}

// Jobs returns the jobs in the order of their coming, as they are now.
func (q *Queue) Jobs() []metadata.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	jobs := make([]metadata.Job, 0, len(q.jobs))
	for _, j := range q.ordered() {
		jobs = append(jobs, j.Job)
	}
	return jobs
}

// Listed is a job with the size of what it pushes.
type Listed struct {
	metadata.Job
	Bytes int64 // of manifests and blobs, as far as the manifests say
}

// List is Jobs with sizes.
func (q *Queue) List() []Listed {
	q.mu.Lock()
	defer q.mu.Unlock()
	jobs := make([]Listed, 0, len(q.jobs))
	for _, j := range q.ordered() {
		jobs = append(jobs, Listed{j.Job, j.bytes})
	}
	return jobs
}

// Wait returns when no job is left that is about a tag or manifest of a
// repository, or when one of them waits for a person; that one is returned. It
// calls seen, if it is not nil, with each change on the way.
func (q *Queue) Wait(ctx context.Context, repo oci.Repo, reference string, seen func(metadata.Job)) (stuck *metadata.Job, err error) {
	for {
		q.mu.Lock()
		var last *queued
		for _, j := range q.ordered() {
			if j.Repo == repo && j.about(reference) && (last == nil || j.ID > last.ID) {
				last = j
			}
		}
		if last == nil {
			q.mu.Unlock()
			return nil, nil
		}
		now, changed := last.Job, q.changed
		q.mu.Unlock()
		if now.State == metadata.JobParked {
			return &now, nil
		}
		if seen != nil {
			seen(now)
		}
		if err := wait(ctx, changed); err != nil {
			return &now, err
		}
	}
}

// Retry makes a job due at once, also one that was parked. With adopt it is sent
// from now on with the credential that there is now, whoever's that is: only a
// person can want that.
func (q *Queue) Retry(ctx context.Context, id string, adopt bool) (metadata.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobs[id]
	if j == nil {
		return metadata.Job{}, unknownJob(id)
	}
	if j.done != nil {
		return j.Job, nil
	}
	next := j.Job
	next.State, next.NotBefore, next.Attempts = metadata.JobQueued, time.Time{}, 0
	if adopt {
		t, err := q.Target(ctx, j.Principal, j.Repo.Host)
		if err != nil {
			return metadata.Job{}, err
		}
		if next.Owner, err = t.Owner(ctx, j.Repo); err != nil {
			return metadata.Job{}, err
		}
	}
	stored, err := q.Forward.meta.UpdateJob(ctx, next)
	if err != nil {
		return metadata.Job{}, err
	}
	j.Job, j.turned, j.told = stored, 0, ""
	q.Forward.tell(q.about(stored, Accepted))
	q.health(j.Repo.Host).until = time.Time{}
	q.tell()
	q.nudge()
	return stored, nil
}

// Drop forgets a job: what it promised is not kept. An attempt under way is
// stopped first.
func (q *Queue) Drop(ctx context.Context, id string) (metadata.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobs[id]
	if j == nil {
		return metadata.Job{}, unknownJob(id)
	}
	j.dropped = true
	defer func() { j.dropped = false }()
	if done := j.done; done != nil {
		j.cancel(errDropped)
		q.mu.Unlock()
		err := wait(ctx, done)
		q.mu.Lock()
		if err != nil {
			return metadata.Job{}, err
		}
	}
	if err := q.Forward.meta.RemoveJob(ctx, id); err != nil {
		return metadata.Job{}, err
	}
	delete(q.jobs, id)
	q.tell()
	q.nudge()
	q.Forward.tell(q.about(j.Job, Dropped))
	return j.Job, nil
}

// about returns an event about a job's push.
func (q *Queue) about(j metadata.Job, status Status) Event {
	e := Event{Push: j.Push, Principal: j.Principal, Repo: j.Repo, Digest: j.Digest, Status: status, Why: j.Error, Credential: j.Credential, Queued: j.ID}
	if e.Reference = j.Digest.String(); len(j.Tags) > 0 {
		e.Reference = j.Tags[0]
	}
	return e
}

// Changed returns a channel that is closed when any job changes, comes or goes.
func (q *Queue) Changed() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.changed
}

func unknownJob(id string) error {
	return oci.ErrNotFound.With("there is no job %s; it is done, or was dropped: %s", id, "pushproxy queue ls lists the jobs there are").
		Because(fmt.Errorf("job %s", id))
}
