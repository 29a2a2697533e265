package forward

import (
	"context"
	"slices"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// claimed is who writes a tag: one job, or any number of pushes whose clients
// wait.
type claimed struct {
	job   bool
	syncs int
	freed chan struct{} // closed when the job is through
}

// claim takes the job's own tags for an attempt, all or none: those that no
// later job of the same owner is about to write. It needs q.mu.
func (q *Queue) claim(j *queued, last map[writer]string) bool {
	own := slices.DeleteFunc(slices.Clone(j.Tags), func(tag string) bool { return last[writer{j.Owner, tagKey{j.Repo, tag}}] > j.ID })
	for _, tag := range own {
		if q.claims[tagKey{j.Repo, tag}] != nil {
			return false
		}
	}
	for _, tag := range own {
		q.claims[tagKey{j.Repo, tag}] = &claimed{job: true, freed: make(chan struct{})}
	}
	j.own = own
	return true
}

// writer is whose jobs write a tag.
type writer struct {
	owner metadata.Owner
	tagKey
}

// lastWrites returns the newest job of each owner that is about to write a tag.
// It needs q.mu.
func (q *Queue) lastWrites() map[writer]string {
	last := map[writer]string{}
	for _, j := range q.jobs {
		if !j.live() {
			continue
		}
		for _, tag := range j.Tags {
			w := writer{j.Owner, tagKey{j.Repo, tag}}
			last[w] = max(last[w], j.ID)
		}
	}
	return last
}

// unclaim ends the claims of an attempt. It needs q.mu.
func (q *Queue) unclaim(j *queued) {
	for _, tag := range j.own {
		key := tagKey{j.Repo, tag}
		close(q.claims[key].freed)
		delete(q.claims, key)
	}
	j.own = nil
}

// Hold keeps jobs from writing tags while somebody else does, a push whose
// client waits or a deletion. It waits for a job that is writing one of them.
// The end of it is told by release: wrote takes the tags from all jobs that were
// accepted before, which would otherwise bring an older state back.
func (q *Queue) Hold(ctx context.Context, repo oci.Repo, tags []string) (release func(ctx context.Context, wrote bool) error, err error) {
	keys := make([]tagKey, 0, len(tags))
	for _, tag := range slices.Compact(slices.Sorted(slices.Values(tags))) {
		keys = append(keys, tagKey{repo, tag})
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		busy := q.busy(keys)
		if busy == nil {
			break
		}
		q.mu.Unlock()
		err := wait(ctx, busy)
		q.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	for _, key := range keys {
		c := q.claims[key]
		if c == nil {
			c = &claimed{}
			q.claims[key] = c
		}
		c.syncs++
	}
	before := q.newest()
	return func(ctx context.Context, wrote bool) (err error) {
		if wrote {
			err = q.strip(ctx, repo, tags, before+"\xff")
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, key := range keys {
			if q.claims[key].syncs--; q.claims[key].syncs == 0 {
				delete(q.claims, key)
			}
		}
		q.nudge()
		return err
	}, nil
}

// busy returns the end of a job that writes one of the tags. It needs q.mu.
func (q *Queue) busy(keys []tagKey) <-chan struct{} {
	for _, key := range keys {
		if c := q.claims[key]; c != nil && c.job {
			return c.freed
		}
	}
	return nil
}

// newest returns the ID of the newest job. It needs q.mu.
func (q *Queue) newest() (id string) {
	for _, j := range q.jobs {
		id = max(id, j.ID)
	}
	return id
}

// strip takes tags from the jobs of a repository that came before the one with
// the given ID: their digests still go.
func (q *Queue) strip(ctx context.Context, repo oci.Repo, tags []string, before string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range q.ordered() {
		if j.ID >= before {
			break
		}
		if j.Repo != repo || !slices.ContainsFunc(tags, func(tag string) bool { return slices.Contains(j.Tags, tag) }) {
			continue
		}
		next := j.Job
		next.Tags, next.Superseded = nil, slices.Clone(j.Superseded)
		for _, tag := range j.Tags {
			if slices.Contains(tags, tag) {
				next.Superseded = append(next.Superseded, tag)
			} else {
				next.Tags = append(next.Tags, tag)
			}
		}
		if next.State == metadata.JobRunning {
			next.State = metadata.JobQueued
		}
		stored, err := q.Forward.meta.UpdateJob(ctx, next)
		if err != nil {
			return err
		}
		stored.State = j.State
		j.Job = stored
	}
	return nil
}
