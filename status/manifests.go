package status

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/forward"
	"pushproxy/oci"
)

// manifest notes how a push goes on, or a child of its index.
func (t *Tracker) manifest(e *forward.Event) {
	p := t.pushOf(e)
	switch e.Status {
	case forward.Preparing:
		if p.over {
			t.reopen(p, Pushing)
		}
		p.State, p.Why = Pushing, ""
		p.running++
		if e.Credential != "" {
			p.Credential = e.Credential
			t.host(e.Principal, e.Repo.Host).credential = e.Credential
		}
		t.names(p, e)
		if !e.Nested {
			t.putDown(p)
		}
	case forward.Pushed:
		p.running--
		t.landed(p, e)
	case forward.Failed:
		p.running--
		if b := p.child(e); b != nil {
			b.goes, b.Why = BlobFailed, e.Why
			b.settle()
			break
		}
		if p.Async {
			// What comes of it, the queue says.
			p.State, p.Why = Queued, e.Why
			break
		}
		t.finish(p, Failed, e.Why, e.When)
	}
	t.changed(p, e.When)
}

// names notes what a manifest is made of. It is the push's own unless an index
// brought it along.
func (t *Tracker) names(p *tracked, e *forward.Event) {
	m, d := e.Job.Manifest, string(e.Digest)
	if e.Job.Trace != "" {
		p.trace = e.Job.Trace
	}
	if e.Nested {
		if p.find(e.Digest) == nil {
			p.add(child(d, m.MediaType, int64(len(m.Raw))))
		}
	} else {
		if p.Digest != "" && p.Digest != d && p.find(digest.Digest(p.Digest)) == nil {
			// Put by its digest before the index that names it.
			b := p.add(child(p.Digest, "", -1))
			b.goes = BlobPushed
			b.settle()
		}
		p.Digest = d
		if tags := tagsOfJob(e.Job); len(tags) > 0 {
			p.Tags = tags
			t.closes(p)
		} else if m.Subject != nil || len(m.Manifests) > 0 {
			t.closes(p)
		}
	}
	p.named[d] = true
	t.order(p, m)
}

func tagsOfJob(job *forward.Job) []string {
	if job.Tag == "" {
		return slices.Clone(job.Tags)
	}
	return append([]string{job.Tag}, slices.DeleteFunc(slices.Clone(job.Tags), func(tag string) bool { return tag == job.Tag })...)
}

// closes ends what gathers for a push: what comes next is another's.
func (t *Tracker) closes(p *tracked) {
	if t.open[p.key] == p {
		delete(t.open, p.key)
	}
}

func child(d, mediaType string, size int64) *piece {
	return &piece{Blob: Blob{Digest: d, MediaType: mediaType, Size: size, State: BlobWaiting}, manifest: true}
}

// order puts what a manifest names into the push in the manifest's order, before
// what else there is, and takes it from pushes that it does not belong to.
func (t *Tracker) order(p *tracked, m oci.Manifest) {
	known := map[string]*piece{}
	for _, b := range p.pieces {
		if b.Digest != "" {
			known[b.Digest] = b
		}
	}
	var named []*piece
	put := func(d oci.Descriptor, manifest bool) {
		key := string(d.Digest)
		b := known[key]
		switch {
		case b != nil && slices.Contains(named, b):
			return
		case b == nil:
			if b = t.adopt(p, d); b == nil {
				b = p.add(&piece{Blob: Blob{Digest: key, Size: d.Size, State: BlobWaiting}})
			}
			known[key] = b
		}
		b.MediaType, b.manifest = d.MediaType, manifest
		if b.Size < 0 {
			b.Size = d.Size
		}
		p.named[key] = true
		named = append(named, b)
	}
	for _, d := range m.Manifests {
		put(d, true)
	}
	for _, d := range m.Blobs {
		put(d, false)
	}
	is := map[*piece]bool{}
	for _, b := range named {
		is[b] = true
	}
	rest := slices.DeleteFunc(p.pieces, func(b *piece) bool { return is[b] })
	p.pieces = append(named, rest...)
}

// adopt returns what is known of a blob that p names and another push has: the
// blob itself if it is not that push's own, a copy if both wait for the same.
func (t *Tracker) adopt(p *tracked, d oci.Descriptor) *piece {
	for _, q := range t.at[p.key] {
		b := q.find(d.Digest)
		if q == p || b == nil || q.over && q.ID != "" {
			continue
		}
		if !q.named[b.Digest] {
			p.move(q, b)
			t.changed(q, q.last)
			return b
		}
		if b.goes.ended() {
			continue
		}
		same := *b
		same.Upload, same.arrives, same.Received, same.ReceiveBegan, same.ReceiveEnded = "", unsent, 0, time.Time{}, time.Time{}
		for _, s := range q.steps {
			if s.Blob == b.Digest {
				p.say(s)
				p.count(s)
			}
		}
		return p.add(&same)
	}
	return nil
}

// child returns the piece that an event about a child manifest is about; nil
// where it is about the push itself.
func (p *tracked) child(e *forward.Event) *piece {
	if !e.Nested && string(e.Digest) == p.Digest {
		return nil
	}
	return p.find(e.Digest)
}

// landed notes that the upstream has a manifest.
func (t *Tracker) landed(p *tracked, e *forward.Event) {
	for _, o := range e.Result.Blobs {
		b := p.find(o.Digest)
		if b == nil || b.goes.there() {
			continue
		}
		if b.Size < 0 {
			b.Size = o.Size
		}
		switch o.How {
		case forward.Mounted:
			b.From = o.From
			b.end(BlobMounted, e)
		case forward.Uploaded:
			b.end(BlobPushed, e)
			b.Sent = max(b.Sent, b.Size)
		case forward.Foreign:
			b.end(BlobExists, e)
			b.Why = "it lives elsewhere and need not be in the repository"
		default:
			b.end(BlobExists, e)
		}
		b.settle()
	}
	if b := p.child(e); b != nil {
		b.end(BlobPushed, e)
		if e.Result.Unchanged {
			b.goes = BlobExists
		}
		b.settle()
		if p.Digest != string(e.Digest) {
			return
		}
	}
	if p.running > 0 {
		return
	}
	state := Done
	if e.Result.Unchanged {
		state = Unchanged
	}
	t.finish(p, state, "", e.When)
}

// news notes what the queue says of a push, and that a client has left.
func (t *Tracker) news(e *forward.Event) {
	p := t.byID[e.Push]
	if p == nil && e.Status == forward.Stopped {
		return
	}
	if p == nil {
		p = t.pushOf(e)
	}
	if e.Status == forward.Stopped {
		if !p.over && p.running == 0 && p.State == Receiving {
			t.finish(p, Stopped, e.Why, e.When)
			t.closes(p)
			t.changed(p, e.When)
		}
		return
	}
	p.Async, p.Job, p.Digest = true, e.Queued, string(e.Digest)
	if e.Credential != "" {
		p.Credential = e.Credential
	}
	switch e.Status {
	case forward.Accepted:
		if p.over {
			t.reopen(p, Queued)
		}
		if e.Job != nil {
			t.names(p, e)
		}
		p.State, p.Why = Queued, e.Why
		t.changed(p, e.When)
		t.keep(p)
		return
	case forward.Parked:
		t.finish(p, Failed, e.Why+"; it waits in the queue for you: pushproxy queue retry "+p.Job, e.When)
	case forward.Dropped:
		t.finish(p, Stopped, "it was dropped from the queue", e.When)
	}
	t.changed(p, e.When)
}
