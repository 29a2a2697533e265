package status

import (
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
			next = t.newPush(p.key, b.ReceiveBegan)
			next.last = p.last
			t.open[p.key] = next
		}
		next.move(p, b)
	}
}
