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

// fault returns the i-th way to misbehave, over and over.
func (c chance) fault(i int) func(*http.Request) Fault {
	always := func(f Fault) func(*http.Request) Fault { return func(*http.Request) Fault { return f } }
	sometimes := func(of ...Fault) func(*http.Request) Fault {
		return func(*http.Request) Fault {
			if c.IntN(3) > 0 {
				return None
			}
			return of[c.IntN(len(of))]
		}
	}
	ways := []func(*http.Request) Fault{
		always(Reset), sometimes(Cut, Lost, Reset), always(503), sometimes(Lie, StoreNot), always(429), sometimes(500, 502, 503, 429),
		// Lost sessions: what is known of them is forgotten.
		func(r *http.Request) Fault {
			if strings.Contains(r.URL.Path, "/uploads/") && r.Method != http.MethodPost && c.IntN(3) == 0 {
				return 404
			}
			return None
		},
		sometimes(Cut, Lost, Lie, StoreNot, 500, 502, 503, 429, Reset),
	}
	return ways[i%len(ways)]
}
