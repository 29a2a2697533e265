package proxy

import (
	"sync"
	"time"
)

const (
	// guessesPerSecond is how many wrong logins of one peer are looked at
	// (trust.md S1); guessesAtOnce how many of them may come together.
	guessesPerSecond = 10
	guessesAtOnce    = 10
	// maxPeers bounds what is remembered. Peers beyond it share one allowance.
	maxPeers = 1024
	// peersBeyond is their name.
	peersBeyond = ""
)

// failures counts wrong logins by peer.
type failures struct {
	mu    sync.Mutex
	peers map[string]*allowance
}

type allowance struct {
	left float64
	when time.Time
}

func newFailures() *failures { return &failures{peers: map[string]*allowance{}} }

// take uses up one guess of the peer, or says that there is none.
func (f *failures) take(peer string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	a := f.of(peer, now)
	a.left = min(guessesAtOnce, a.left+now.Sub(a.when).Seconds()*guessesPerSecond)
	a.when = now
	if a.left < 1 {
		return tooMany(time.Second)
	}
	a.left--
	return nil
}

// spent is take for a guess that was wrong: its error, or that there were too
// many.
func (f *failures) spent(peer string, wrong error) error {
	if err := f.take(peer); err != nil {
		return err
	}
	return wrong
}

// of returns the peer's allowance; it needs mu. Peers whose allowance is full
// again are forgotten when room is needed.
func (f *failures) of(peer string, now time.Time) *allowance {
	if a := f.peers[peer]; a != nil {
		return a
	}
	if len(f.peers) >= maxPeers {
		for name, a := range f.peers {
			if now.Sub(a.when) > guessesAtOnce*time.Second/guessesPerSecond {
				delete(f.peers, name)
			}
		}
	}
	if len(f.peers) >= maxPeers {
		if a := f.peers[peersBeyond]; a != nil {
			return a
		}
		peer = peersBeyond
	}
	a := &allowance{left: guessesAtOnce, when: now}
	f.peers[peer] = a
	return a
}
