package forward

import (
	"context"
	"fmt"
	"slices"
	"time"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// sent is what an attempt at a job did.
type sent struct {
	Result
	credential string // what people call the one that it was made with
}

// attempt pushes a job once, with the credential that there is now, if that is
// the same identity, and notes what it did.
func (q *Queue) attempt(ctx context.Context, j metadata.Job, tags []string, did *sent) error {
	t, err := q.Target(ctx, j.Principal, j.Repo.Host)
	if err != nil {
		return strangers{err}
	}
	owner, err := t.Owner(ctx, j.Repo)
	if err != nil {
		return strangers{fmt.Errorf("the credential for %s cannot be had: %w", j.Repo, err)}
	}
	if owner != j.Owner && !q.formerly(ctx, j) {
		return strangers{oci.ErrDenied.With("the credential for %s is not the one that this push was accepted with (%s); bring that back, or let the present one push it: pushproxy queue retry --adopt %s",
			j.Repo, j.Credential, j.ID)}
	}
	stored, ok, err := q.Forward.meta.Manifest(ctx, j.Repo, j.Digest)
	if err != nil {
		return err
	}
	if !ok {
		return errLost{oci.ErrManifestInvalid.With("the manifest %s of %s was damaged in the proxy's store: push it again", j.Digest, j.Repo)}
	}
	m, err := oci.ParseManifest(stored.MediaType, stored.Raw)
	if err != nil {
		return errLost{err}
	}
	job := Job{ID: j.Push, Target: t, Repo: j.Repo, Manifest: m, Digest: j.Digest}
	if len(tags) > 0 {
		job.Tag, job.Tags = tags[0], tags[1:]
	}
	if t.Client.Describe != nil {
		did.credential = t.Client.Describe(ctx, j.Repo)
	}
	did.Result, err = q.Forward.Push(ctx, job)
	return err
}

// formerly reports whether the present credential is the identity that a job was
// accepted with, under a secret that was replaced since.
func (q *Queue) formerly(ctx context.Context, j metadata.Job) bool {
	if q.Formerly == nil {
		return false
	}
	owners, err := q.Formerly(ctx, j.Principal, j.Repo)
	return err == nil && slices.Contains(owners, j.Owner)
}

// Rekey gives the jobs whose identity is the present credential's under a secret
// that was replaced the owner that it has now. It returns how many could not be
// looked at: for their sake the old secret is kept. Others are of another
// identity, or were moved already.
func (q *Queue) Rekey(ctx context.Context) (undecided int) {
	for _, j := range q.Jobs() {
		if q.rekey(ctx, j) != nil {
			undecided++
		}
	}
	return undecided
}

func (q *Queue) rekey(ctx context.Context, j metadata.Job) error {
	t, err := q.Target(ctx, j.Principal, j.Repo.Host)
	if err != nil {
		return err
	}
	owner, err := t.Owner(ctx, j.Repo)
	if err != nil || owner == j.Owner || !q.formerly(ctx, j) {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	entry := q.jobs[j.ID]
	if entry == nil || entry.Owner != j.Owner {
		return nil
	}
	next := entry.Job
	next.Owner = owner
	if next.State == metadata.JobNeedsAuth {
		next.State, next.NotBefore = metadata.JobQueued, time.Time{}
	}
	stored, err := q.Forward.meta.UpdateJob(ctx, next)
	if err != nil {
		return err
	}
	entry.Job = stored
	q.tell()
	q.nudge()
	return nil
}

// strangers is the error of a job whose credential is not there.
type strangers struct{ error }

func (s strangers) Unwrap() error { return s.error }

// errLost is the error of a job that no retry can help.
type errLost struct{ error }

func (e errLost) Unwrap() error { return e.error }

// Push carries out a job in the caller's goroutine, until ctx ends.
func (f *Forwarder) Push(ctx context.Context, job Job) (Result, error) {
	if err := f.begin(); err != nil {
		return Result{}, err
	}
	defer f.running.Done()
	if job.ID == "" {
		job.ID = f.claimID(job)
	}
	ctx, cancel := f.within(ctx)
	defer cancel(nil)
	return f.push(ctx, job, 0)
}
