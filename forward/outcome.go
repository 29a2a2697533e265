package forward

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// How a blob came to be in a repository.
type How string

// The ways, as logs and events name them.
const (
	Skipped  How = "skipped"  // it was there
	Mounted  How = "mounted"  // from another repository of the upstream
	Uploaded How = "uploaded" // from the cache
	Foreign  How = "foreign"  // it lives elsewhere and need not be there
)

// Outcome says what became of one blob.
type Outcome struct {
	Digest digest.Digest
	Size   int64 // bytes
	How    How
	From   string        // repository it was mounted from
	Took   time.Duration // until it was there
}

// recentFor is how long an outcome waits for the manifest that it belongs to.
const recentFor = time.Hour

// landings keeps the outcomes that no push has reported yet: most blobs are
// there before the manifest that names them arrives.
type landings struct {
	mu     sync.Mutex
	recent map[landingKey]landing
	swept  time.Time
}

// landingKey names whose blob landed where: nobody reports another's.
type landingKey struct {
	principal string
	repo      oci.Repo
	digest    digest.Digest
}

type landing struct {
	outcome Outcome
	when    time.Time
}

func (l *landings) add(key landingKey, o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.recent == nil {
		l.recent, l.swept = map[landingKey]landing{}, now
	}
	if now.Sub(l.swept) > recentFor/10 {
		for k, old := range l.recent {
			if now.Sub(old.when) > recentFor {
				delete(l.recent, k)
			}
		}
		l.swept = now
	}
	// A later flight that found the blob there must not hide how it came.
	if _, known := l.recent[key]; !known || o.How != Skipped {
		l.recent[key] = landing{o, now}
	}
}

// take returns how a blob came to be there, to the one push that reports it;
// last is what that push itself knows.
func (l *landings) take(key landingKey, last Outcome) Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	found, ok := l.recent[key]
	if !ok {
		return last
	}
	delete(l.recent, key)
	if last.How != Skipped {
		return last
	}
	return found.outcome
}
