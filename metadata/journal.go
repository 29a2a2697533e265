package metadata

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// States of a job. A finished job is removed.
const (
	JobQueued    = "queued"     // to be sent at NotBefore or later
	JobRunning   = "running"    // being sent; after a restart the same as queued
	JobNeedsAuth = "needs-auth" // waits for credentials to come back
	JobParked    = "parked"     // cannot succeed as it is; kept with its Error
)

// Job is a push that a client was promised: the manifest Digest is to reach
// Repo. It holds names of credentials, never credentials.
type Job struct {
	ID         string        `json:"-"`                    // given by AddJob; ascends with creation, not guessable
	Revision   int64         `json:"revision"`             // counts the changes; see UpdateJob
	Push       string        `json:"push,omitempty"`       // id of the push; empty in jobs of old
	Principal  string        `json:"principal"`            // who asked
	Owner      Owner         `json:"owner"`                // the identity upstream that it was accepted with
	Credential string        `json:"credential,omitempty"` // name of that credential's source
	Repo       oci.Repo      `json:"repo"`
	Tags       []string      `json:"tags,omitempty"`       // to be set; none: by digest only
	Superseded []string      `json:"superseded,omitempty"` // tags that a later write took over
	Digest     digest.Digest `json:"digest"`
	MediaType  string        `json:"media_type"`
	Size       int64         `json:"size"`  // of the manifest, in bytes
	State      string        `json:"state"` // one of the Job… constants
	Attempts   int           `json:"attempts"`
	NotBefore  time.Time     `json:"not_before"`      // UTC; zero: at once
	Error      string        `json:"error,omitempty"` // of the last attempt
	Created    time.Time     `json:"created"`         // UTC; set by AddJob
	Updated    time.Time     `json:"updated"`         // UTC; set by AddJob and UpdateJob
}

// AddJob stores a job and returns it with ID, Revision, Created and Updated
// filled in. When it returns, the job survives a crash and a power cut. A job
// whose AddJob began after another's returned comes after it.
func (db *DB) AddJob(ctx context.Context, j Job) (Job, error) {
	n, err := db.nextJob(ctx)
	if err != nil {
		return Job{}, fmt.Errorf("queue push to %s: %w", j.Repo, err)
	}
	j.ID = fmt.Sprintf("%016x-%s", n, strings.ToLower(rand.Text()[:16]))
	j.Revision = 1
	j.Created = db.now()
	j.Updated = j.Created
	key := makeKey("job", j.ID)
	record, err := encode(key, j, nil)
	if err != nil {
		return Job{}, fmt.Errorf("queue push to %s: %w", j.Repo, err)
	}
	done, err := db.KV.Swap(ctx, key, nil, record)
	if err == nil && !done {
		err = ErrConflict
	}
	if err != nil {
		return Job{}, fmt.Errorf("queue push to %s: %w", j.Repo, err)
	}
	return j, nil
}

// Job returns the job with an ID, if it is there. A damaged job is ErrDamaged.
func (db *DB) Job(ctx context.Context, id string) (Job, bool, error) {
	key := makeKey("job", id)
	record, err := db.KV.Get(ctx, key)
	if err != nil {
		return Job{}, false, fmt.Errorf("job %s: %w", id, err)
	}
	if record == nil {
		return Job{}, false, nil
	}
	j, err := decodeJob(Entry{key, record})
	return j, err == nil, err
}

// UpdateJob stores j over the job that j was read as, and returns it with its
// new Revision and Updated. If that job was changed since, or removed, nothing
// is stored and the error is ErrConflict: read it again and decide anew.
func (db *DB) UpdateJob(ctx context.Context, j Job) (Job, error) {
	key := makeKey("job", j.ID)
	record, err := db.KV.Get(ctx, key)
	if err != nil {
		return Job{}, fmt.Errorf("change job %s: %w", j.ID, err)
	}
	if record == nil {
		return Job{}, fmt.Errorf("change job %s, which is gone: %w", j.ID, ErrConflict)
	}
	known, err := decodeJob(Entry{key, record})
	if err != nil {
		return Job{}, err
	}
	if known.Revision != j.Revision {
		return Job{}, fmt.Errorf("change job %s: %w", j.ID, ErrConflict)
	}
	j.Revision++
	j.Created = known.Created
	j.Updated = db.now()
	next, err := encode(key, j, nil)
	if err != nil {
		return Job{}, fmt.Errorf("change job %s: %w", j.ID, err)
	}
	done, err := db.KV.Swap(ctx, key, record, next)
	if err == nil && !done {
		err = ErrConflict
	}
	if err != nil {
		return Job{}, fmt.Errorf("change job %s: %w", j.ID, err)
	}
	return j, nil
}

// RemoveJob deletes a job, damaged or not; that it is not there is fine.
func (db *DB) RemoveJob(ctx context.Context, id string) error {
	if err := db.remove(ctx, makeKey("job", id)); err != nil {
		return fmt.Errorf("remove job %s: %w", id, err)
	}
	return nil
}

// Jobs yields all jobs in the order of their creation. A damaged job is yielded
// with its ID and ErrDamaged, and the rest follow; after any other error
// nothing follows. The loop's body may change and remove jobs.
func (db *DB) Jobs(ctx context.Context) iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		for entry, err := range db.KV.Scan(ctx, makeKey("job")) {
			if err != nil {
				yield(Job{}, fmt.Errorf("list jobs: %w", err))
				return
			}
			if !yield(decodeJob(entry)) {
				return
			}
		}
	}
}

// decodeJob reads a job's record; with an error it returns the job's ID alone.
func decodeJob(entry Entry) (Job, error) {
	id, err := lastField(entry.Key)
	if err != nil {
		return Job{}, err
	}
	var j Job
	if _, err := decode(entry.Key, entry.Value, &j); err != nil {
		return Job{ID: id}, fmt.Errorf("job %s cannot be read; push again and remove it: %w", id, err)
	}
	j.ID = id
	return j, nil
}

// nextJob returns a number greater than that of every job so far. A counter,
// because the clock may be set back and the order of jobs is a promise.
func (db *DB) nextJob(ctx context.Context) (uint64, error) {
	key := makeKey("sequence", "job")
	var next uint64
	err := db.update(ctx, key, func(record []byte) ([]byte, error) {
		var last uint64
		if _, err := decode(key, record, &last); err != nil {
			// Absent or damaged: what the jobs themselves say is enough.
			if last, err = db.lastJob(ctx); err != nil {
				return nil, err
			}
		}
		next = last + 1
		return encode(key, next, nil)
	})
	return next, err
}

// lastJob returns the greatest number among the stored jobs, 0 without any.
func (db *DB) lastJob(ctx context.Context) (uint64, error) {
	var last uint64
	for entry, err := range db.KV.Scan(ctx, makeKey("job")) {
		if err != nil {
			return 0, fmt.Errorf("list jobs: %w", err)
		}
		id, err := lastField(entry.Key)
		if err != nil {
			continue
		}
		number, _, _ := strings.Cut(id, "-")
		if n, err := strconv.ParseUint(number, 16, 64); err == nil {
			last = max(last, n)
		}
	}
	return last, nil
}
