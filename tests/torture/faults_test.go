package torture

import (
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
)

// faults is what the upstream does at present.
type faults struct {
	mu  sync.Mutex
	now func(*http.Request) Fault
}

func (f *faults) set(now func(*http.Request) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

func (f *faults) decide(r *http.Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == nil {
		return None
	}
	return f.now(r)
}

// chance is randomness for one goroutine at a time.
type chance struct{ *rand.Rand }

func newChance() chance { return chance{rand.New(rand.NewPCG(*seed, 98))} }

// fault is a way to misbehave.
type fault func(chance) func(*http.Request) Fault

func always(f Fault) fault {
	return func(chance) func(*http.Request) Fault { return func(*http.Request) Fault { return f } }
}

// sometimes strikes every third request.
func sometimes(of ...Fault) fault {
	return func(c chance) func(*http.Request) Fault {
		return func(*http.Request) Fault {
			if c.IntN(3) > 0 {
				return None
			}
			return of[c.IntN(len(of))]
		}
	}
}

// The ways to misbehave.
var (
	refusing    = always(Reset)
	broken      = sometimes(Cut, Lost, Reset)
	unavailable = always(503)
	lying       = sometimes(Lie, StoreNot)
	busy        = always(429)
	failing     = sometimes(500, 502, 503, 429)
	everything  = sometimes(Cut, Lost, Lie, StoreNot, 500, 502, 503, 429, Reset)
)

// forgetting loses sessions, and says so.
func forgetting(c chance) func(*http.Request) Fault {
	return func(r *http.Request) Fault {
		if strings.Contains(r.URL.Path, "/uploads/") && r.Method != http.MethodPost && c.IntN(3) == 0 {
			return Forget
		}
		return None
	}
}
