package status

import (
	"cmp"
	"time"

	"pushproxy/metadata"
	"pushproxy/oci"
)

const (
	// cutOff is told of a push that the process before this one did not end.
	cutOff = "pushproxy ended while this push was under way, as far as it was written down; push again: what the upstream has is not sent twice"
	// cutOffQueued is that of one which had been queued.
	cutOffQueued = "pushproxy ended before it was written down how this push ended; it is not in the queue any more: the upstream knows whether it has it"
	// cutOffBlob is told of their blobs.
	cutOffBlob = "pushproxy ended before it was written down how this ended"
)

// restore takes in what earlier processes wrote down, oldest first.
func (t *Tracker) restore(old []Push) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := map[string]int{}
	for i, p := range old {
		last[p.ID] = i
	}
	waiting := map[string]metadata.Job{}
	if t.queue != nil {
		for _, j := range t.queue.Jobs() {
			waiting[j.Push], waiting[j.ID] = j, j
		}
	}
	for i, p := range old {
		if last[p.ID] != i {
			continue
		}
		if j, found := waiting[cmp.Or(p.Job, p.ID)]; found {
			if p.Job == "" {
				// It was accepted, and the line that says so is missing.
				p.Async, p.Job, p.Digest, p.Tags = true, j.ID, j.Digest.String(), j.Tags
			}
			t.resume(p)
			continue
		}
		if p.Finished.IsZero() {
			p = t.cutOff(p)
			t.journal.write(p)
		}
		t.seq++
		t.history.add(p, t.seq)
	}
}

// cutOff ends a push that the process before this one was in the middle of.
func (t *Tracker) cutOff(p Push) Push {
	p.State, p.Why, p.Finished = Stopped, cutOff, t.journal.last
	if p.Job != "" {
		p.Why = cutOffQueued
	}
	if p.Finished.Before(p.Started) {
		p.Finished = p.Started
	}
	for i := range p.Blobs {
		if b := &p.Blobs[i]; !b.State.ended() {
			b.State, b.Why, b.RetryAt = BlobFailed, cutOffBlob, time.Time{}
		}
	}
	return p
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
