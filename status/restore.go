package status

import (
	"time"

	"pushproxy/oci"
)

// restore takes in what earlier processes wrote down, oldest first.
func (t *Tracker) restore(old []Push) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := map[string]int{}
	for i, p := range old {
		last[p.ID] = i
	}
	waiting := map[string]bool{}
	if t.queue != nil {
		for _, j := range t.queue.Jobs() {
			waiting[j.ID] = true
		}
	}
	for i, p := range old {
		if last[p.ID] != i {
			continue
		}
		switch {
		case p.Job != "" && waiting[p.Job]:
			t.resume(p)
			continue
		case p.State == Queued:
			p.State, p.Finished = Stopped, time.Now()
			p.Why = "pushproxy ended before it was written down how this push ended; it is not in the queue any more: the upstream knows whether it has it"
		case p.Finished.IsZero():
			continue
		}
		t.seq++
		t.history.add(p, t.seq)
	}
}

// resume takes in a push whose job is in the queue still.
func (t *Tracker) resume(p Push) {
	key := where{p.Principal, oci.Repo{Host: p.Upstream, Name: p.Repository}}
	r := &tracked{Push: p, key: key, named: map[string]bool{p.Digest: true}, last: time.Now(), asked: p.Sum.Requests, sent: p.Sum.SentBytes}
	for _, b := range p.Blobs {
		b.Why, b.RetryAt = "", time.Time{}
		own := &piece{Blob: b, goes: b.State, arrives: here}
		if !b.State.there() {
			own.goes = ""
		}
		own.settle()
		r.pieces = append(r.pieces, own)
		r.named[b.Digest] = true
	}
	for _, s := range p.Steps {
		r.steps = append(r.steps, step{Step: s})
	}
	r.Blobs, r.Steps = nil, nil
	t.reopen(r, Queued)
	t.byID[p.ID] = r
	t.at[key] = append(t.at[key], r)
	t.changed(r, time.Now())
}
