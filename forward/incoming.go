package forward

import (
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// toldEvery is how often watchers are told of bytes, per blob and direction.
const toldEvery = 100 * time.Millisecond

// Incoming is one request of a client that brings bytes of a blob, as watchers
// see it. It is used by one goroutine.
type Incoming struct {
	f     *Forwarder
	key   gatherKey
	about Event
	first int64 // bytes of the blob before this request
	told  time.Time
}

// Incoming tells watchers that a client begins to send a blob, or goes on with
// it: upload is what it comes under, offset how many bytes are here already,
// total how many it has (negative: not known), d its digest where that is known.
// End must be called.
func (f *Forwarder) Incoming(t *Target, repo oci.Repo, upload, agent string, d digest.Digest, offset, total int64) *Incoming {
	in := &Incoming{f: f, key: gatherKey{t.Principal, repo}, first: offset}
	in.about = Event{Push: f.arriving(in.key), Principal: t.Principal, Repo: repo, Upload: upload, Agent: agent, Digest: d, Total: total}
	in.tell(Receiving, offset, "")
	return in
}

func (in *Incoming) tell(status Status, current int64, why string) {
	e := in.about
	e.Status, e.Current, e.Why = status, current, why
	in.f.tell(e)
}

// Got tells watchers how many bytes of this request have come, ten times a
// second at most.
func (in *Incoming) Got(n int64) {
	if now := time.Now(); now.Sub(in.told) > toldEvery {
		in.told = now
		in.about.Push = in.f.goesOn(in.key, in.about.Push)
		in.tell(Receiving, in.first+n, "")
	}
}

// End tells watchers how the request ended: with d the blob is whole and has
// size bytes, without it size bytes are here and more may follow; why says what
// broke it off, if something did.
func (in *Incoming) End(d digest.Digest, size int64, why string) {
	in.about.Push = in.f.goesOn(in.key, in.about.Push)
	switch {
	case d != "":
		in.about.Digest, in.about.Total = d, size
		in.tell(Received, size, "")
	case why != "":
		in.tell(Broke, size, why)
	default:
		in.tell(Receiving, size, "")
	}
	in.f.arrived(in.key, in.about.Push)
}
