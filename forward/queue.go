package forward

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// Queue carries out the pushes that clients were promised: Accept promises,
// Run keeps the promise however often the network or this process dies. The
// journal in metadata is the truth; what is here is its image in memory.
//
// Tags end at the write that was acknowledged last. At most one job writes a tag
// at a time. A job leaves out tags that a later job of the same owner is about
// to write; a job that is done takes its tags from every older job before it is
// forgotten, so that no retry brings an old one back.
//
// The exported fields are set before Open and not changed later.
type Queue struct {
	Forward *Forwarder
	// Target returns the upstream of a host as the principal reaches it.
	Target func(ctx context.Context, principal, host string) (*Target, error)
	// Policy says how an upstream is to be treated; nil means the zero Policy.
	Policy func(host string) Policy
	// Formerly returns the owners that the present credential had under secrets of
	// the installation that were replaced; nil: none were.
	Formerly func(ctx context.Context, principal string, repo oci.Repo) ([]metadata.Owner, error)
	// Report, when set, is told of each job that is done, or that waits for a
	// person from now on. It must not block.
	Report func(Report)

	wake chan struct{} // there may be something to start

	mu      sync.Mutex
	jobs    map[string]*queued
	claims  map[tagKey]*claimed
	hosts   map[string]*health
	changed chan struct{} // closed at the next change of any job
}

// Report is news of a job.
type Report struct {
	Job  metadata.Job
	Done bool // false: State and Error say what it waits for

	// How it was done, and what people call the credential that it was last tried
	// with; that is empty where there was none to be tried.
	Result     Result
	Credential string
}

// tagKey is a tag of a repository.
type tagKey struct {
	repo oci.Repo
	tag  string
}

// queued is a job of the journal.
type queued struct {
	metadata.Job
	needs  []digest.Digest // blobs and manifests that it is made of
	bytes  int64           // … of those, as far as the manifests say
	own    []string        // tags that the attempt under way writes
	quick  bool            // its last failure was its upstream's, and may pass any time
	turned int             // refusals in a row
	told   string          // the state that was reported last

	dropped bool // about to be forgotten
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed at the end of the attempt under way; nil: none is
}

// live reports whether the job will be tried without anybody's help.
func (j *queued) live() bool { return j.State == metadata.JobQueued || j.State == metadata.JobRunning }

var errDropped = errors.New("forward: the job was dropped")

// Open reads the journal. It is called once, before all else. Damaged jobs stay
// in the journal and are returned, for somebody to be told; an error means that
// the journal as a whole could not be read.
func (q *Queue) Open(ctx context.Context) (damaged []string, err error) {
	q.wake, q.changed = make(chan struct{}, 1), make(chan struct{})
	q.jobs, q.claims, q.hosts = map[string]*queued{}, map[tagKey]*claimed{}, map[string]*health{}
	for j, err := range q.Forward.meta.Jobs(ctx) {
		if errors.Is(err, metadata.ErrDamaged) {
			damaged = append(damaged, err.Error())
			continue
		}
		if err != nil {
			return damaged, err
		}
		if j.State == metadata.JobRunning {
			j.State = metadata.JobQueued
		}
		// Whoever waited for the last process need not wait for this one.
		j.NotBefore = time.Time{}
		if j.Push == "" {
			// The same after each start, for jobs of versions that gave none.
			j.Push = j.ID[max(0, len(j.ID)-10):]
		}
		entry := &queued{Job: j, quick: true}
		if entry.needs, err = q.needsOf(ctx, j.Repo, j.Digest, &entry.bytes, 0); err != nil {
			return damaged, err
		}
		q.jobs[j.ID] = entry
	}
	return damaged, nil
}

// needsOf lists what a stored manifest is made of, itself included, and adds up
// its bytes. A manifest that is not there needs nothing: its job will say so.
func (q *Queue) needsOf(ctx context.Context, repo oci.Repo, d digest.Digest, bytes *int64, depth int) ([]digest.Digest, error) {
	stored, ok, err := q.Forward.meta.Manifest(ctx, repo, d)
	if err != nil || !ok || depth > maxIndexDepth {
		return nil, err
	}
	m, err := oci.ParseManifest(stored.MediaType, stored.Raw)
	if err != nil {
		return nil, nil
	}
	needs := []digest.Digest{d}
	*bytes += int64(len(m.Raw))
	for _, b := range m.Blobs {
		needs = append(needs, b.Digest)
		*bytes += b.Size
	}
	for _, child := range m.Manifests {
		more, err := q.needsOf(ctx, repo, child.Digest, bytes, depth+1)
		if err != nil {
			return nil, err
		}
		needs = append(needs, more...)
	}
	return needs, nil
}

// Run carries out jobs until ctx ends, and returns when those under way have
// stopped: they are in the journal, and go on with the next Run.
func (q *Queue) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	attempts, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(ErrClosed) // before the wait
	for {
		timer := time.NewTimer(q.start(attempts, &running))
		select {
		case <-timer.C:
		case <-q.wake:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// idle is how long Run sleeps when no job has an appointment.
const idle = time.Minute

// start begins every attempt that may begin now, and returns how long there is
// nothing more to begin.
func (q *Queue) start(ctx context.Context, running *sync.WaitGroup) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, next, last := time.Now(), idle, q.lastWrites()
	for host, jobs := range q.byHost() {
		h := q.health(host)
		wait := h.allows(now, q.policy(host))
		if h.ailing() && wait > 0 && h.probeDue(now) {
			h.probing = true
			running.Go(func() { q.probe(ctx, host, jobs[0].Principal) })
		}
		if h.ailing() && wait > 0 {
			wait = min(wait, probeEvery)
		}
		if wait > 0 {
			next = min(next, wait)
			continue
		}
		if h.ailing() {
			// One of them finds out for all; those that failed least often are the
			// least likely to be at fault themselves.
			slices.SortStableFunc(jobs, func(a, b *queued) int { return a.Attempts - b.Attempts })
		}
		for _, j := range jobs {
			if h.running >= h.width(q.policy(host)) {
				break
			}
			if wait := j.NotBefore.Sub(now); wait > 0 && !(h.ailing() && j.quick) {
				next = min(next, wait)
				continue
			}
			if j.done != nil || !q.claim(j, last) {
				continue
			}
			q.begin(ctx, j, h, running)
		}
	}
	return max(next, time.Millisecond)
}

// byHost returns the jobs that wait for nobody, in the order of their coming, by
// upstream. It needs q.mu, as do all that follow.
func (q *Queue) byHost() map[string][]*queued {
	hosts := map[string][]*queued{}
	for _, j := range q.ordered() {
		if j.State != metadata.JobParked && !j.dropped {
			hosts[j.Repo.Host] = append(hosts[j.Repo.Host], j)
		}
	}
	return hosts
}

// ordered returns all jobs in the order of their coming.
func (q *Queue) ordered() []*queued {
	return slices.SortedFunc(maps.Values(q.jobs), func(a, b *queued) int { return strings.Compare(a.ID, b.ID) })
}

func (q *Queue) policy(host string) Policy {
	if q.Policy == nil {
		return Policy{}
	}
	return q.Policy(host)
}

// begin starts an attempt at a job whose tags are claimed.
func (q *Queue) begin(ctx context.Context, j *queued, h *health, running *sync.WaitGroup) {
	ctx, cancel := context.WithCancelCause(ctx)
	j.cancel = cancel
	j.done = make(chan struct{})
	about, tags := j.Job, j.own
	j.State = metadata.JobRunning
	h.running++
	q.tell()
	running.Go(func() {
		did := &sent{}
		err := q.guarded(ctx, about, tags, did)
		q.finish(context.WithoutCancel(ctx), j, about, tags, context.Cause(ctx), did, err)
		cancel(nil)
	})
}

// guarded is attempt for jobs of whatever content: one that panics must not end
// the others.
func (q *Queue) guarded(ctx context.Context, j metadata.Job, tags []string, did *sent) error {
	err := q.Forward.guarded(func() error { return q.attempt(ctx, j, tags, did) })
	if fault := (*oci.Fault)(nil); errors.As(err, &fault) {
		// A refusal for what the job is: it is not tried for ever.
		return oci.ErrManifestInvalid.With("the push of %s ended in a fault of pushproxy (%s)", j.Repo, fault.Type).Because(fault)
	}
	return err
}

// nudge makes Run look for what may begin.
func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// tell wakes those who wait for a change. It needs q.mu.
func (q *Queue) tell() {
	close(q.changed)
	q.changed = make(chan struct{})
}
