package forward

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream"
)

// Job asks for a manifest to be in a repository under a reference, with all
// that it names.
type Job struct {
	Target   *Target
	Repo     oci.Repo
	Manifest oci.Manifest
	Digest   digest.Digest // of the manifest
	Tag      string        // empty: by digest alone
	Tags     []string      // further tags (?tag=)
}

// Reference returns the tag or digest under which the manifest is put.
func (j Job) Reference() string {
	if j.Tag != "" {
		return j.Tag
	}
	return j.Digest.String()
}

// Push is a job under way or done.
type Push struct {
	Job
	f        *Forwarder
	key      pushKey
	began    time.Time
	done     chan struct{}
	cancel   context.CancelFunc
	waiters  int
	grace    *time.Timer
	outcomes []Outcome
	result   Result
	err      error
}

// Result is what a finished push has to say.
type Result struct {
	upstream.PutResult
	Unchanged bool      // the upstream had it under that reference already
	Blobs     []Outcome // in the manifest's order
	Took      time.Duration
}

// pushKey joins the same push by the same caller: clients that give up waiting
// come back and repeat it.
type pushKey struct {
	principal string
	repo      oci.Repo
	reference string
	tags      string
	digest    digest.Digest
}

// rejoinFor is how long a push goes on after its last waiter left. Clients that
// give up on a slow answer repeat the request within seconds.
const rejoinFor = 60 * time.Second

// Submit starts a push, or joins the one under way for the same caller,
// reference and digest. Wait for its end with Push.Wait.
func (f *Forwarder) Submit(ctx context.Context, job Job) (*Push, error) {
	key := pushKey{principal: job.Target.Principal, repo: job.Repo, reference: job.Reference(), digest: job.Digest}
	for _, tag := range job.Tags {
		key.tags += " " + tag
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pushes[key]; p != nil {
		p.waiters++
		if p.grace != nil {
			p.grace.Stop()
			p.grace = nil
		}
		return p, nil
	}
	if f.closed {
		return nil, ErrClosed
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(f.life, cancel)
	p := &Push{Job: job, f: f, key: key, began: time.Now(), done: make(chan struct{}), cancel: cancel, waiters: 1}
	f.pushes[key] = p
	f.running.Add(1)
	go func() {
		defer f.running.Done()
		defer stop()
		defer cancel()
		p.result, p.err = f.push(run, job, 0)
		p.result.Took = time.Since(p.began)
		f.mu.Lock()
		delete(f.pushes, key)
		f.mu.Unlock()
		close(p.done)
	}()
	return p, nil
}

// Wait returns the push's result when it is done. A waiter that goes away (its
// ctx ends) leaves the push running for a minute, in case it comes back.
func (p *Push) Wait(ctx context.Context) (Result, error) {
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
	}
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	if p.waiters--; p.waiters == 0 {
		p.grace = time.AfterFunc(rejoinFor, p.cancel)
	}
	return Result{}, context.Cause(ctx)
}

// push carries a job out. The depth counts indexes within indexes.
func (f *Forwarder) push(ctx context.Context, job Job, depth int) (Result, error) {
	f.tell(Event{Repo: job.Repo, Reference: job.Reference(), Digest: job.Digest, Status: Preparing})
	result, err := f.carryOut(ctx, job, depth)
	if err != nil {
		f.tell(Event{Repo: job.Repo, Reference: job.Reference(), Digest: job.Digest, Status: Failed, Why: oci.AsError(err).Message})
		return result, err
	}
	f.tell(Event{Repo: job.Repo, Reference: job.Reference(), Digest: job.Digest, Status: Pushed})
	return result, nil
}

func (f *Forwarder) carryOut(ctx context.Context, job Job, depth int) (Result, error) {
	unchanged, err := f.unchanged(ctx, job)
	if err != nil {
		return Result{}, err
	}
	if unchanged {
		return f.unchangedResult(job), nil
	}
	blobs, err := f.gather(ctx, job, depth)
	if err != nil {
		return Result{Blobs: blobs}, err
	}
	put, err := f.put(ctx, job)
	if errors.Is(err, oci.ErrManifestBlobUnknown) {
		// What was believed to be there is not: the upstream collected it.
		if err := f.forgetAll(ctx, job); err != nil {
			return Result{Blobs: blobs}, err
		}
		if blobs, err = f.gather(ctx, job, depth); err != nil {
			return Result{Blobs: blobs}, err
		}
		put, err = f.put(ctx, job)
	}
	if err != nil {
		if f.refusedButThere(ctx, job, err) {
			return f.unchangedResult(job), f.record(ctx, job)
		}
		return Result{Blobs: blobs}, err
	}
	return Result{PutResult: put, Blobs: blobs}, f.record(ctx, job)
}

func (f *Forwarder) put(ctx context.Context, job Job) (upstream.PutResult, error) {
	return job.Target.Client.PutManifest(ctx, job.Repo, job.Reference(), job.Manifest.MediaType, job.Manifest.Raw, job.Tags)
}

// refusedButThere tells a refusal that does not matter: registries with
// immutable tags refuse even the very manifest that the tag has
// (aws/containers-roadmap#2380).
func (f *Forwarder) refusedButThere(ctx context.Context, job Job, err error) bool {
	var e *oci.Error
	if job.Tag == "" || len(job.Tags) > 0 || !errors.As(err, &e) || e.Status < 400 || e.Status > 499 {
		return false
	}
	there, found, err := job.Target.Client.HeadManifest(ctx, job.Repo, job.Tag, oci.ManifestTypes)
	return err == nil && found && there.Digest == job.Digest
}
