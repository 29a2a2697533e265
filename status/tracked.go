package status

import (
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// keptBlobs and keptSteps are how many blobs and steps of one push are kept.
	keptBlobs = 1000
	keptSteps = 500
)

// tracked is a push with what is not shown of it.
type tracked struct {
	Push    // without Blobs, Sum and Steps
	key     where
	pieces  []*piece
	trace   string          // the client's own span, where it may be taken up
	named   map[string]bool // digests that its manifests name, their own included
	steps   []step
	unsaid  int       // steps that were left out
	asked   int       // requests to the upstream
	sent    int64     // bytes to the upstream, with what was sent again
	running int       // manifests under way
	over    bool      // finished
	last    time.Time // when it was heard of
	seq     int64     // the change that made it as it is
	kept    int64     // the change that is written down
	noted   time.Time // when it was written down while it was under way
	fresh   bool      // it is to be written down so at once

	encoded    []byte // as it is sent to streams
	encodedSeq int64
}

// piece is a blob or child manifest of a push.
type piece struct {
	Blob
	manifest bool
	arrives  arrival   // what the client does
	goes     BlobState // what is done upstream; empty: nothing yet
	round    int       // how often its bytes were begun to be sent
}

// arrival is how far a client is with a blob.
type arrival int

const (
	unsent   arrival = iota // the client sends nothing of it
	arriving                // bytes come
	broken                  // its request broke off
	here                    // it is whole
)

// step is a Step of a blob whose digest may not be known yet.
type step struct {
	Step
	upload string
}

// ended reports whether a state is the last one.
func (s BlobState) ended() bool {
	return s == BlobPushed || s == BlobExists || s == BlobMounted || s == BlobFailed
}

// there reports whether a state means that the upstream has the blob.
func (s BlobState) there() bool { return s.ended() && s != BlobFailed }

// settle makes the state of what the client and the upstream do.
func (b *piece) settle() {
	switch {
	case b.goes.ended() || b.goes == BlobRetrying:
		b.State = b.goes
	case b.arrives == arriving:
		b.State = BlobReceiving
	case b.arrives == broken:
		b.State = BlobFailed
	case b.goes == "":
		b.State = BlobWaiting
	default:
		b.State = b.goes
	}
	if b.State != BlobFailed && b.State != BlobRetrying && b.State != BlobExists {
		b.Why = ""
	}
	if b.State != BlobRetrying {
		b.RetryAt = time.Time{}
	}
}

// find returns the piece with a digest; else nil.
func (p *tracked) find(d digest.Digest) *piece {
	if d == "" {
		return nil
	}
	for _, b := range p.pieces {
		if b.Digest == string(d) {
			return b
		}
	}
	return nil
}

// coming returns the piece that comes by an upload; else nil.
func (p *tracked) coming(upload string) *piece {
	if upload == "" {
		return nil
	}
	for _, b := range p.pieces {
		if b.Upload == upload {
			return b
		}
	}
	return nil
}

// add adds a piece. Of a push with very many they are counted only where it
// has been said how they went: by the manifest.
func (p *tracked) add(b *piece) *piece {
	p.pieces = append(p.pieces, b)
	return b
}

// say adds a step.
func (p *tracked) say(s step) {
	if len(p.steps) >= keptSteps {
		p.unsaid++
		return
	}
	p.steps = append(p.steps, s)
}

// move takes a piece and what was done for it from another push.
func (p *tracked) move(from *tracked, b *piece) {
	from.pieces = slices.DeleteFunc(from.pieces, func(other *piece) bool { return other == b })
	p.pieces = append(p.pieces, b)
	from.steps = slices.DeleteFunc(from.steps, func(s step) bool {
		own := s.Blob != "" && s.Blob == b.Digest || s.upload != "" && s.upload == b.Upload
		if own {
			p.say(s)
			if s.counts() {
				p.asked, from.asked = p.asked+1, from.asked-1
				p.sent, from.sent = p.sent+s.Bytes, from.sent-s.Bytes
			}
		}
		return own
	})
}

// sum counts.
func (p *tracked) sum() Sum {
	s := Sum{Requests: p.asked, SentBytes: p.sent, SavedMillis: p.Sum.SavedMillis}
	for _, b := range p.pieces {
		if b.manifest {
			continue
		}
		size := max(0, b.Size)
		switch b.goes {
		case BlobExists:
			s.Existed, s.ExistedBytes = s.Existed+1, s.ExistedBytes+size
		case BlobMounted:
			s.Mounted, s.MountedBytes = s.Mounted+1, s.MountedBytes+size
		case BlobPushed:
			s.Uploaded++
		}
	}
	return s
}

// shown returns the push as it is now, without steps.
func (p *tracked) shown() Push {
	out := p.Push
	out.Tags, out.Steps = slices.Clone(p.Tags), nil
	out.Sum = p.sum()
	out.Blobs = make([]Blob, 0, min(len(p.pieces), keptBlobs))
	for _, b := range p.pieces[:min(len(p.pieces), keptBlobs)] {
		out.Blobs = append(out.Blobs, b.Blob)
	}
	return out
}

// whole returns the push with its steps in the order of their beginning.
func (p *tracked) whole() Push {
	out := p.shown()
	out.Steps = make([]Step, 0, len(p.steps)+1)
	for _, s := range p.steps {
		out.Steps = append(out.Steps, s.Step)
	}
	slices.SortStableFunc(out.Steps, func(a, b Step) int { return a.When.Compare(b.When) })
	if p.unsaid > 0 {
		out.Steps = append(out.Steps, Step{When: p.last, Op: "decide", Text: "… " + strconv.Itoa(p.unsaid) + " more"})
	}
	return out
}
