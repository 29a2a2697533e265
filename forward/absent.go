package forward

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// absentFor is how long an upstream's "not here" is believed. Being wrong costs
// an upload of what is there, never a blob that is not.
const absentFor = 30 * time.Second

// absences remember what upstreams said they do not have.
type absences struct {
	mu    sync.Mutex
	until map[absence]time.Time
}

type absence struct {
	owner metadata.Owner
	blobKey
}

func (a *absences) lately(owner metadata.Owner, key blobKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.until[absence{owner, key}])
}

func (a *absences) note(owner metadata.Owner, key blobKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for k, until := range a.until {
		if now.After(until) {
			delete(a.until, k)
		}
	}
	if a.until == nil {
		a.until = map[absence]time.Time{}
	}
	a.until[absence{owner, key}] = now.Add(absentFor)
}

// Look asks the upstream, with this target's credential, for a blob that a
// client asks for, and remembers if it has none: what the client sends next is
// not looked for again. The size is in bytes, negative where the upstream does
// not say.
func (f *Forwarder) Look(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest) (size int64, found bool, err error) {
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return 0, false, err
	}
	size, found, err = t.Client.HeadBlob(ctx, repo, d)
	if err == nil && !found {
		f.absent.note(owner, blobKey{repo, d})
	}
	return size, found, err
}
