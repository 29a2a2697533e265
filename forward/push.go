package forward

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream"
)

// Job asks for a manifest to be in a repository under a reference, with all
// that it names.
type Job struct {
	ID       string // of the push; empty: Submit and Push give it one
	Target   *Target
	Repo     oci.Repo
	Manifest oci.Manifest
	Digest   digest.Digest // of the manifest
	Tag      string        // empty: by digest alone
	Tags     []string      // further tags (?tag=)
	Trace    string        // the client's own span (W3C Trace Context), where it may be taken up
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
	f       *Forwarder
	key     pushKey
	began   time.Time
	done    chan struct{} // closed when result and err are set
	cancel  context.CancelCauseFunc
	waiters int
	grace   *time.Timer
	result  Result
	err     error
}

// Result is what a finished push has to say.
type Result struct {
	upstream.PutResult
	Push      string    // its id
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
	mediaType string
}

// rejoinFor is how long a push goes on after its last waiter left. Clients that
// give up on a slow answer repeat the request within seconds.
const rejoinFor = 60 * time.Second

// errAbandoned ends a push whose client did not come back.
var errAbandoned = errors.New("forward: the client went away and did not come back")

// Submit starts a push, or joins the one under way for the same caller,
// reference and digest. Wait for its end with Push.Wait, once per Submit. Of
// ctx only the values are used: the push outlives the request.
func (f *Forwarder) Submit(ctx context.Context, job Job) (*Push, error) {
	key := pushKey{
		principal: job.Target.Principal, repo: job.Repo, reference: job.Reference(), tags: strings.Join(job.Tags, " "),
		digest: job.Digest, mediaType: job.Manifest.MediaType,
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pushes[key]; p != nil {
		p.waiters++
		if p.grace != nil {
			p.grace.Stop()
		}
		return p, nil
	}
	if f.closed {
		return nil, ErrClosed
	}
	if job.ID == "" {
		job.ID = f.claimID(job)
	}
	run, cancel := f.within(context.WithoutCancel(ctx))
	p := &Push{Job: job, f: f, key: key, began: time.Now(), done: make(chan struct{}), cancel: cancel, waiters: 1}
	f.pushes[key] = p
	f.running.Add(1)
	go p.run(run)
	return p, nil
}

func (p *Push) run(ctx context.Context) {
	f := p.f
	defer f.running.Done()
	defer p.cancel(nil)
	p.err = f.guarded(func() (err error) {
		p.result, err = f.push(ctx, p.Job, 0)
		return err
	})
	p.result.Push, p.result.Took = p.ID, time.Since(p.began)
	f.mu.Lock()
	defer f.mu.Unlock()
	if p.grace != nil {
		p.grace.Stop()
	}
	p.drop()
	close(p.done)
}

// Then calls end with the push's error when it has ended, whoever still waits.
func (p *Push) Then(end func(error)) {
	p.f.running.Add(1)
	p.f.aside(func() {
		<-p.done
		end(p.err)
	})
}

// drop makes the next Submit of the same push begin anew. It needs f.mu.
func (p *Push) drop() {
	if p.f.pushes[p.key] == p {
		delete(p.f.pushes, p.key)
	}
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
	select {
	case <-p.done:
		return p.result, p.err
	default:
	}
	if p.waiters--; p.waiters == 0 {
		p.grace = time.AfterFunc(rejoinFor, p.abandon)
	}
	return Result{}, context.Cause(ctx)
}

// abandon cancels the push, unless somebody came back in the last moment.
func (p *Push) abandon() {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	if p.waiters > 0 {
		return
	}
	p.drop()
	p.cancel(errAbandoned)
}

// push carries a job out. The depth counts indexes within indexes.
func (f *Forwarder) push(ctx context.Context, job Job, depth int) (Result, error) {
	ctx = doing(ctx, errandOf{push: job.ID, digest: job.Digest})
	about := Event{
		Push: job.ID, Principal: job.Target.Principal, Repo: job.Repo, Reference: job.Reference(), Digest: job.Digest, Job: &job, Nested: depth > 0,
	}
	tell := func(status Status, why string) {
		about.Status, about.Why = status, why
		f.tell(about)
	}
	if describe := job.Target.Client.Describe; describe != nil && depth == 0 && f.watched() {
		about.Credential = describe(ctx, job.Repo)
	}
	began := time.Now()
	tell(Preparing, "")
	result, err := f.carryOut(ctx, job, depth)
	result.Push, result.Took = job.ID, time.Since(began)
	if err != nil {
		if ctx.Err() != nil {
			// What it was doing when it was stopped is of no interest.
			err = context.Cause(ctx)
		}
		if depth == 0 {
			f.Metrics.pushed(job.Repo.Host, began, result, err)
		}
		tell(Failed, oci.AsError(err).Message)
		return Result{}, err
	}
	if depth == 0 {
		f.Metrics.pushed(job.Repo.Host, began, result, nil)
	}
	about.Result = &result
	tell(Pushed, "")
	return result, nil
}

func (f *Forwarder) carryOut(ctx context.Context, job Job, depth int) (Result, error) {
	owner, err := job.Target.Owner(ctx, job.Repo)
	if err != nil {
		return Result{}, err
	}
	r := &run{Job: job, f: f, owner: owner, depth: depth}
	unchanged, err := r.unchanged(ctx)
	if err != nil {
		return Result{}, err
	}
	if unchanged {
		return r.kept(), nil
	}
	if err := r.gather(ctx); err != nil {
		return Result{}, err
	}
	put, err := r.put(ctx)
	if errors.Is(err, oci.ErrManifestBlobUnknown) {
		// What was believed to be there is not: the upstream collected it.
		if err := r.heal(ctx); err != nil {
			return Result{}, err
		}
		put, err = r.put(ctx)
	}
	switch {
	case err == nil:
		return Result{PutResult: put, Blobs: r.report()}, r.record(ctx)
	case r.refusedButThere(ctx, err):
		return r.kept(), r.record(ctx)
	}
	return Result{}, err
}
