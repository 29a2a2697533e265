package forward

import (
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

const (
	// gatherIdle is how long a push without a manifest is waited for when nothing
	// arrives any more: clients that lost a connection are back sooner.
	gatherIdle = time.Minute
	// familyFor is how long after a manifest that was put by its digest alone what
	// follows is taken to belong to the same index.
	familyFor = 15 * time.Second
)

// NewPushID returns an id for a push: short enough to be read out, and unique.
func NewPushID() string { return strings.ToLower(rand.Text()[:10]) }

// gatherings are the pushes whose manifest is still to come. Blobs arrive before
// it, and an index after its children: what one principal sends to one
// repository in one go is one push.
type gatherings struct {
	mu   sync.Mutex
	open map[gatherKey]*gathering
}

type gatherKey struct {
	principal string
	repo      oci.Repo
}

// gathering is what has come for a push so far.
type gathering struct {
	id       string
	sending  int                    // requests that bring something now
	children map[digest.Digest]bool // manifests put by digest, which an index may name
	timer    *time.Timer
}

// gather returns the gathering of a key, which it begins if need be. It needs
// g.mu.
func (f *Forwarder) gather(key gatherKey) *gathering {
	g := &f.gathers
	if found := g.open[key]; found != nil {
		return found
	}
	if g.open == nil {
		g.open = map[gatherKey]*gathering{}
	}
	new := &gathering{id: NewPushID()}
	g.open[key] = new
	new.timer = time.AfterFunc(gatherIdle, func() { f.scatter(key, new) })
	return new
}

// arriving counts a request that brings something, and returns the push's id.
func (f *Forwarder) arriving(key gatherKey) string {
	f.gathers.mu.Lock()
	defer f.gathers.mu.Unlock()
	g := f.gather(key)
	g.sending++
	g.timer.Stop()
	return g.id
}

// goesOn returns the id of the push that a request brings something for, which
// was id so far: another one, when a manifest has come meanwhile and taken that,
// since its own blobs were there before it.
func (f *Forwarder) goesOn(key gatherKey, id string) string {
	f.gathers.mu.Lock()
	defer f.gathers.mu.Unlock()
	if g := f.gathers.open[key]; g != nil && g.id == id {
		return id
	}
	g := f.gather(key)
	g.sending++
	g.timer.Stop()
	return g.id
}

// arrived ends what arriving began.
func (f *Forwarder) arrived(key gatherKey, id string) {
	f.gathers.mu.Lock()
	defer f.gathers.mu.Unlock()
	g := f.gathers.open[key]
	if g == nil || g.id != id {
		return
	}
	if g.sending--; g.sending <= 0 {
		g.timer.Reset(g.patience())
	}
}

func (g *gathering) patience() time.Duration {
	if len(g.children) > 0 {
		return familyFor
	}
	return gatherIdle
}

// scatter ends a gathering for which nothing came any more.
func (f *Forwarder) scatter(key gatherKey, g *gathering) {
	f.gathers.mu.Lock()
	if f.gathers.open[key] != g || g.sending > 0 {
		f.gathers.mu.Unlock()
		return
	}
	delete(f.gathers.open, key)
	f.gathers.mu.Unlock()
	if len(g.children) == 0 {
		f.tell(Event{Push: g.id, Principal: key.principal, Repo: key.repo, Status: Stopped,
			Why: "the client has sent nothing more for a minute, and no manifest; what it sent is kept: push again"})
	}
}

// closeGatherings forgets all of them.
func (f *Forwarder) closeGatherings() {
	f.gathers.mu.Lock()
	defer f.gathers.mu.Unlock()
	for _, g := range f.gathers.open {
		g.timer.Stop()
	}
	clear(f.gathers.open)
}

// claimID returns the id of the push that a manifest makes: that of what was
// gathered for it. A manifest by its digest may be the child of an index and
// leaves the gathering open for that; one that says what it is about is none.
func (f *Forwarder) claimID(job Job) string {
	key := gatherKey{job.Target.Principal, job.Repo}
	f.gathers.mu.Lock()
	defer f.gathers.mu.Unlock()
	g := f.gather(key)
	if job.Tag == "" && len(job.Tags) == 0 && job.Manifest.Subject == nil && len(job.Manifest.Manifests) == 0 {
		if g.children == nil {
			g.children = map[digest.Digest]bool{}
		}
		g.children[job.Digest] = true
		if g.sending <= 0 {
			g.timer.Reset(g.patience())
		}
		return g.id
	}
	g.timer.Stop()
	delete(f.gathers.open, key)
	if len(g.children) == 0 {
		return g.id
	}
	for _, d := range job.Manifest.Manifests {
		if g.children[d.Digest] {
			return g.id
		}
	}
	// What was put by digest was a push of its own.
	return NewPushID()
}
