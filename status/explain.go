package status

import (
	"io"
	"slices"
	"time"
)

// WriteExplanation writes one push with everything that was done for it and how
// that ended, blob by blob. Times are in the zone of now.
func WriteExplanation(w io.Writer, now time.Time, p Push) error {
	var r report
	r.line("push %s of %s: %s", Clean(p.ID), p.Image(), p.Says(now))
	r.table(nil, rowsOf([][2]string{
		{"digest", Clean(p.Digest)}, {"from", p.sender()}, {"began", p.Started.In(now.Location()).Format(time.DateTime)},
		{"credential", Clean(p.Credential)}, {"job", Clean(p.Job)},
	}))
	told := map[string]bool{}
	for _, b := range p.Blobs {
		if b.Digest != "" {
			told[b.Digest] = true
		}
		r.blob(now, p, b)
	}
	r.rest(p, told)
	when := "in all"
	if !p.Over() {
		when = "so far"
	}
	r.line("\n%s: %s; %d requests to %s", when, p.Sum.Says(), p.Sum.Requests, Clean(p.Upstream))
	_, err := r.WriteTo(w)
	return err
}

func rowsOf(pairs [][2]string) (rows [][]string) {
	for _, pair := range pairs {
		if pair[1] != "" {
			rows = append(rows, pair[:])
		}
	}
	return rows
}

func (p Push) sender() string {
	text := Clean(p.Principal)
	if p.Agent != "" {
		text += ", " + Clean(p.Agent)
	}
	return text
}

func (r *report) blob(now time.Time, p Push, b Blob) {
	name := b.Name()
	if b.MediaType != "" {
		name = kindWords(b.MediaType) + " " + name
	}
	says := b.Says(now)
	if again := againWords(b); again != "" {
		says += ", " + again
	}
	r.line("\n%s: %s", name, says)
	steps := stretch("received", b.ReceiveBegan, b.ReceiveEnded, b.Received)
	sent := false
	for _, s := range p.Steps {
		if s.Blob != "" && s.Blob == b.Digest {
			steps = append(steps, s)
			sent = sent || s.Bytes > 0
		}
	}
	if !sent {
		steps = append(steps, stretch("sent upstream", b.SendBegan, b.SendEnded, b.Sent)...)
	}
	r.steps(p, steps)
}

// stretch is a step that took its time: none if it did not begin.
func stretch(what string, from, to time.Time, bytes int64) []Step {
	if from.IsZero() {
		return nil
	}
	text := what + ": began"
	if took := to.Sub(from); !to.IsZero() && bytes > 0 {
		text = what + ": " + Bytes(bytes) + " in " + Span(took)
		if took >= 10*time.Millisecond {
			text += " at " + Bytes(int64(float64(bytes)/took.Seconds())) + "/s"
		}
	}
	return []Step{{When: from, Text: text}}
}

// rest tells what was done for the push itself, and for what is not among its
// blobs.
func (r *report) rest(p Push, told map[string]bool) {
	var steps []Step
	for _, s := range p.Steps {
		if s.Blob == "" || !told[s.Blob] {
			steps = append(steps, s)
		}
	}
	if len(steps) > 0 {
		r.line("\nthe push itself")
		r.steps(p, steps)
	}
}

// steps writes what was done in the order in which it was, as distances from the
// begin of the push: what the client asked before counts as that.
func (r *report) steps(p Push, steps []Step) {
	slices.SortStableFunc(steps, func(a, b Step) int { return a.When.Compare(b.When) })
	for _, s := range steps {
		r.line("  %+7.2f s  %s", max(s.When.Sub(p.Started), 0).Seconds(), Clean(s.Text))
	}
}
