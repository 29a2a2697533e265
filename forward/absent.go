package forward

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

const (
	// absentFor is how long an upstream's "not here" is believed. Being wrong
	// costs an upload of what is there, never a blob that is not.
	absentFor = 30 * time.Second
	// presentFor is how long a repository that exists is not asked for again.
	presentFor = 10 * time.Minute
)

// absences remember what upstreams said they do not have: blobs, and whole
// repositories, whose digest is empty here.
type absences struct {
	mu    sync.Mutex
	known map[absence]verdict
	swept time.Time
}

type absence struct {
	owner metadata.Owner
	blobKey
}

type verdict struct {
	absent bool
	until  time.Time
}

// lately returns what the upstream said of the key to the owner, if it did
// lately.
func (a *absences) lately(owner metadata.Owner, key blobKey) (absent, said bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.known[absence{owner, key}]
	return v.absent, time.Now().Before(v.until)
}

func (a *absences) note(owner metadata.Owner, key blobKey, absent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.known == nil {
		a.known, a.swept = map[absence]verdict{}, now
	}
	if now.Sub(a.swept) > absentFor {
		for k, v := range a.known {
			if now.After(v.until) {
				delete(a.known, k)
			}
		}
		a.swept = now
	}
	until := now.Add(absentFor)
	if !absent {
		until = now.Add(presentFor)
	}
	a.known[absence{owner, key}] = verdict{absent, until}
}

// missing reports whether the upstream said lately that it does not have the
// blob.
func (a *absences) missing(owner metadata.Owner, key blobKey) bool {
	absent, said := a.lately(owner, key)
	return said && absent
}

// Look asks the upstream, with this target's credential, for a blob that a
// client asks for, and remembers if it has none: what the client sends next is
// not looked for again. In a repository that does not exist yet one question
// spares one for each blob. The size is in bytes, negative where the upstream
// does not say.
func (f *Forwarder) Look(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest) (size int64, found bool, err error) {
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return 0, false, err
	}
	key := blobKey{repo, d}
	if f.absent.missing(owner, key) {
		return 0, false, nil
	}
	nothing, err := f.nothing(ctx, t, owner, repo, d)
	if err != nil {
		return 0, false, err
	}
	if !nothing {
		size, found, err = t.Client.HeadBlob(ctx, repo, d)
	}
	if err == nil && !found {
		f.absent.note(owner, key, true)
	}
	return size, found, err
}

// nothing reports whether the upstream has no such repository; d is the blob that
// the answer is wanted for. An answer other
// than its clear "no" is none: then each blob is asked for.
func (f *Forwarder) nothing(ctx context.Context, t *Target, owner metadata.Owner, repo oci.Repo, d digest.Digest) (bool, error) {
	key := blobKey{repo: repo}
	if absent, said := f.absent.lately(owner, key); said {
		return absent, nil
	}
	known, err := f.meta.Knows(ctx, repo)
	if err != nil || known {
		return false, err
	}
	answer, _, _ := f.asking.Do(string(owner[:])+repo.String(), func() (any, error) {
		_, _, err := t.Client.Tags(doing(ctx, errandOf{digest: d}), repo, url.Values{"n": {"1"}})
		var e *oci.Error
		absent := errors.As(err, &e) && e.Status == http.StatusNotFound
		if absent || err == nil {
			f.absent.note(owner, key, absent)
		}
		return absent, nil
	})
	return answer.(bool), nil
}
