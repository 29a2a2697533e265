package status

import (
	"cmp"

	"pushproxy/forward"
)

// receive notes what a client sends.
func (t *Tracker) receive(e *forward.Event) {
	p := t.pushOf(e)
	if p.over {
		t.reopen(p, Receiving)
	}
	if p.running == 0 || t.open[p.key] == nil {
		t.open[p.key] = p
	}
	if p.noted.IsZero() {
		t.putDown(p)
	}
	if p.Agent == "" {
		p.Agent = e.Agent
	}
	b := t.arrivingAt(p, e)
	if e.Status == forward.Broke && e.Current == 0 {
		// Given up.
		t.drop(p, b)
		t.changed(p, e.When)
		return
	}
	if e.Digest != "" {
		b = t.becomes(p, b, string(e.Digest))
	}
	if e.Upload != "" {
		b.Received = e.Current
		if b.ReceiveBegan.IsZero() {
			b.ReceiveBegan = e.When
		}
	}
	if e.Total >= 0 {
		b.Size = e.Total
	}
	switch e.Status {
	case forward.Receiving:
		b.arrives = arriving
	case forward.Broke:
		b.arrives, b.Why = broken, e.Why
	case forward.Received:
		b.arrives = here
		if e.Upload != "" {
			b.ReceiveEnded = e.When
		}
	}
	b.settle()
	t.changed(p, e.When)
}

// arrivingAt returns the blob of p that an event is about. One that was taken to
// belong to another push goes along.
func (t *Tracker) arrivingAt(p *tracked, e *forward.Event) *piece {
	if b := p.coming(e.Upload); b != nil {
		return b
	}
	for _, q := range t.at[p.key] {
		if b := q.coming(e.Upload); b != nil && !q.named[b.Digest] {
			p.move(q, b)
			t.changed(q, e.When)
			return b
		}
	}
	if b := p.find(e.Digest); b != nil && (b.Upload == "" || e.Upload == "") {
		if e.Upload != "" {
			b.Upload = e.Upload
		}
		return b
	}
	return p.add(&piece{Blob: Blob{Upload: e.Upload, Size: -1}})
}

// becomes notes a blob's digest. Where the push knows that digest already, both
// are one.
func (t *Tracker) becomes(p *tracked, b *piece, d string) *piece {
	if b.Digest == d {
		return b
	}
	for i := range p.steps {
		if s := &p.steps[i]; s.upload != "" && s.upload == b.Upload {
			s.Blob = d
		}
	}
	known := (*piece)(nil)
	for _, other := range p.pieces {
		if other != b && other.Digest == d {
			known = other
		}
	}
	b.Digest = d
	if known == nil {
		return b
	}
	t.drop(p, b)
	if known.Upload == "" {
		known.Upload = b.Upload
	}
	known.Received, known.arrives = max(known.Received, b.Received), max(known.arrives, b.arrives)
	if known.ReceiveBegan.IsZero() {
		known.ReceiveBegan = b.ReceiveBegan
	}
	if known.SendBegan.IsZero() {
		known.SendBegan, known.Sent = b.SendBegan, b.Sent
	}
	return known
}

func (t *Tracker) drop(p *tracked, b *piece) {
	for i, other := range p.pieces {
		if other == b {
			p.pieces = append(p.pieces[:i:i], p.pieces[i+1:]...)
			return
		}
	}
}

// blobs notes what is done upstream with a blob, for every push that waits for
// it.
func (t *Tracker) blobs(e *forward.Event) {
	key := where{e.Principal, e.Repo}
	if e.Status == forward.Retrying && e.Busy {
		t.host(e.Principal, e.Repo.Host).slowed(e)
	}
	if e.Push != "" {
		// Not about a blob: a manifest is tried again.
		if p := t.byID[e.Push]; p != nil && e.Status == forward.Retrying {
			p.say(retries(e))
			t.changed(p, e.When)
		}
		return
	}
	concerned := t.concerned(key, e)
	if len(concerned) == 0 {
		if e.Digest == "" && e.Upload == "" {
			return
		}
		p := t.gathering(key, e.When)
		// It may be over, and wait for the index that names it.
		b := cmp.Or(p.find(e.Digest), p.coming(e.Upload))
		if b == nil {
			b = p.add(&piece{Blob: Blob{Digest: string(e.Digest), Upload: e.Upload, Size: e.Total}})
		}
		concerned = []concern{{p, b}}
	}
	before := concerned[0].piece.Sent
	defer func() {
		// Of a blob that several pushes wait for, the bytes go once.
		if more := concerned[0].piece.Sent - before; more > 0 {
			t.host(e.Principal, e.Repo.Host).total += more
		}
	}()
	for _, c := range concerned {
		if e.Status == forward.Retrying {
			c.push.say(retries(e))
		}
		c.piece.goOn(e)
		t.changed(c.push, e.When)
	}
}

// concern is a blob of a push that an event is about.
type concern struct {
	push  *tracked
	piece *piece
}

// concerned returns the blobs of pushes under way that an event is about.
func (t *Tracker) concerned(key where, e *forward.Event) (found []concern) {
	for _, p := range t.at[key] {
		if p.over || e.Push != "" && p.ID != e.Push {
			continue
		}
		b := p.find(e.Digest)
		if b == nil {
			b = p.coming(e.Upload)
		}
		if b != nil {
			found = append(found, concern{p, b})
		}
	}
	return found
}

// goOn notes what is done upstream.
func (b *piece) goOn(e *forward.Event) {
	if b.Size < 0 && e.Total >= 0 {
		b.Size = e.Total
	}
	switch e.Status {
	case forward.Preparing:
		// One that is there stays so until something else is said.
		if !b.goes.there() {
			b.goes = BlobPreparing
		}
	case forward.Waiting:
		b.goes = BlobWaiting
	case forward.Pushing:
		b.goes = BlobPushing
		if b.SendBegan.IsZero() {
			b.SendBegan = e.When
		}
		if e.Current == 0 {
			break
		}
		// One that goes on where it broke off is not sent again.
		if e.Round > b.round && b.round > 0 && e.Current <= b.Sent {
			b.Again++
			b.Sent = e.Current
		}
		b.round, b.Sent = e.Round, max(b.Sent, e.Current)
	case forward.Retrying:
		b.goes, b.Why, b.RetryAt = BlobRetrying, e.Why, e.When.Add(e.Delay)
	case forward.Pushed:
		b.end(BlobPushed, e)
		b.Sent = max(b.Sent, b.Size)
	case forward.MountedFrom:
		b.From = e.From
		b.end(BlobMounted, e)
	case forward.AlreadyExists:
		if !b.goes.there() {
			b.end(BlobExists, e)
		}
	case forward.Failed:
		b.Why = e.Why
		b.goes = BlobFailed
	}
	b.settle()
}

func (b *piece) end(how BlobState, e *forward.Event) {
	b.goes, b.SendEnded = how, e.When
}
