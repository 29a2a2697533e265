package forward

import (
	"sync"
	"time"

	"pushproxy/oci"
)

// warmFor is how long after a push to a repository began its connection and
// token are taken to be there: shorter than either lives.
const warmFor = 30 * time.Second

// warmth remembers where pushes have begun lately.
type warmth struct {
	mu    sync.Mutex
	until map[warmKey]time.Time
}

type warmKey struct {
	principal string
	repo      oci.Repo
}

// cold reports whether nobody has warmed the key lately, and takes that on.
func (w *warmth) cold(key warmKey) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Before(w.until[key]) {
		return false
	}
	for k, until := range w.until {
		if now.After(until) {
			delete(w.until, k)
		}
	}
	if w.until == nil {
		w.until = map[warmKey]time.Time{}
	}
	w.until[key] = now.Add(warmFor)
	return true
}

// Warm prepares a push to the repository while the client sends its first bytes:
// the round trips for a connection and a token are then over when the first blob
// is. What goes wrong shows in the push itself.
func (f *Forwarder) Warm(t *Target, repo oci.Repo) {
	if t.Warm == nil || !f.warmth.cold(warmKey{t.Principal, repo}) || f.begin() != nil {
		return
	}
	f.aside(func() { _ = t.Warm(oci.ContextWithRepo(f.life, repo), repo) })
}
