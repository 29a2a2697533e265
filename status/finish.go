package status

import (
	"cmp"
	"slices"
	"time"
)

// reopen takes back that a push is finished.
func (t *Tracker) reopen(p *tracked, state State) {
	p.over, p.State, p.Finished, p.Why = false, state, time.Time{}, ""
}

// finish ends a push.
func (t *Tracker) finish(p *tracked, state State, why string, when time.Time) {
	p.over, p.State, p.Why, p.Finished = true, state, why, when
	if state != Stopped {
		t.giveBack(p)
	}
	for _, b := range p.pieces {
		switch {
		case b.goes.ended():
		case state == Done || state == Unchanged:
			b.goes = BlobExists
			if b.SendEnded.IsZero() && b.SendBegan.IsZero() {
				b.SendEnded = when
			}
		default:
			b.goes = BlobUnsent
		}
		if b.arrives == arriving {
			b.arrives = broken
		}
		b.settle()
	}
	p.Sum.SavedMillis = t.saved(p)
	t.changed(p, when)
	t.keep(p)
}

// putDown has a push under way written down soon.
func (t *Tracker) putDown(p *tracked) {
	if t.journal != nil && !p.fresh {
		p.fresh = true
		t.fresh = append(t.fresh, p)
	}
}

// noteFresh writes down what putDown was told of, once for all that was heard
// together.
func (t *Tracker) noteFresh() {
	for _, p := range t.fresh {
		p.fresh = false
		t.note(p, p.last)
	}
	t.fresh = t.fresh[:0]
}

// note writes a push under way down, for a process that comes after a kill.
func (t *Tracker) note(p *tracked, now time.Time) {
	if t.journal != nil && p.ID != "" && !p.over && p.kept != p.seq {
		p.kept, p.noted = p.seq, now
		t.journal.note(p.whole())
	}
}

// noteDue reports whether a push under way has changed since it was written down,
// and that was long ago for its age: a long push costs a line less and less often.
func (p *tracked) noteDue(now time.Time) bool {
	return !p.noted.IsZero() && !p.over && p.kept != p.seq && now.Sub(p.noted) >= max(noteEvery, now.Sub(p.Started)/8)
}

// keep writes a push down unless it is written as it is.
func (t *Tracker) keep(p *tracked) {
	if t.journal != nil && p.kept != p.seq && p.ID != "" {
		p.kept = p.seq
		t.journal.write(p.whole())
	}
}

// close ends the pushes under way: nothing more will be heard of them here.
func (t *Tracker) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, p := range t.byID {
		if !p.over && p.State != Queued {
			t.finish(p, Stopped, "pushproxy stopped before this push was through; what it received is kept: push again", now)
		}
		if p.over {
			t.ends(p)
		}
		t.keep(p)
	}
	if t.journal != nil {
		t.journal.close()
	}
}

// giveBack takes what a finished push does not name out of it: it came for
// another push, whose manifest has not arrived yet.
func (t *Tracker) giveBack(p *tracked) {
	if len(p.named) == 0 {
		return
	}
	for _, b := range slices.Clone(p.pieces) {
		if p.named[b.Digest] {
			continue
		}
		next := t.open[p.key]
		if next == nil || next == p {
			// It need not have been received: what is here already is sent on as well.
			next = t.newPush(p.key, cmp.Or(b.ReceiveBegan, b.SendBegan, p.Finished))
			next.last = p.last
			t.open[p.key] = next
		}
		next.move(p, b)
	}
}
