package status

import (
	"fmt"
	"math"
	"time"
)

// timeline is a push's time line as an SVG draws it: a row per blob, and across
// it the time since the push began.
type timeline struct {
	Title, Text string // of the picture, for who does not see it
	Height      int    // pixels
	Foot        int    // pixels from the top to the axis' words
	Ticks       []tick
	Rows        []timelineRow
}

// tick is one line of the axis.
type tick struct{ X, Words string }

// timelineRow is one blob.
type timelineRow struct {
	Y, Middle int // pixels from the top to the row, and to the middle of its words
	Short     string
	State     BlobState
	Slug      string
	Spans     []timelineSpan
	Mark      string // where the upstream was known to hold what was not sent; empty: nowhere
	MarkY     int
	Text      string // the row in a sentence
	Received  string // and for the table beside the picture
	Waited    string
	Uploaded  string
}

// timelineSpan is one lapse of a row.
type timelineSpan struct {
	Class    string // received, waiting, uploading
	X, Width string // per cent of the axis
	Y, H     int    // pixels
}

const (
	rowHeight  = 26
	laneHeight = 8
)

// newTimeline lays a push out from its beginning to its end, or to now. It is
// nil where no blob has a time.
func newTimeline(p Push, now time.Time) *timeline {
	end := p.Finished
	if end.IsZero() {
		end = now
	}
	scale := axis{p.Started, max(end.Sub(p.Started), time.Millisecond)}
	t := &timeline{Title: "Time line of the push of " + p.Repository + referenceWords(p)}
	for _, b := range p.Blobs {
		if b.ReceiveBegan.IsZero() && b.SendBegan.IsZero() && b.SendEnded.IsZero() {
			continue
		}
		t.Rows = append(t.Rows, scale.row(b, len(t.Rows)*rowHeight, end))
	}
	if len(t.Rows) == 0 {
		return nil
	}
	t.Text = fmt.Sprintf("%s in %s: when each was received, waited and was uploaded. The table below says the same.",
		plural(int64(len(t.Rows)), "blob"), Span(scale.span))
	t.Foot = len(t.Rows)*rowHeight + 18
	t.Height = t.Foot + 8
	t.Ticks = scale.ticks()
	return t
}

// axis is the time that a picture is wide.
type axis struct {
	start time.Time
	span  time.Duration
}

func (a axis) at(t time.Time) float64 {
	return 100 * min(max(float64(t.Sub(a.start))/float64(a.span), 0), 1)
}

func percent(f float64) string { return fmt.Sprintf("%.2f%%", f) }

func (a axis) row(b Blob, y int, end time.Time) timelineRow {
	r := timelineRow{Y: y, Middle: y + rowHeight/2, Short: short(b.Digest), State: b.State, Slug: slug(b.State)}
	if r.Short == "" {
		r.Short = "not known yet"
	}
	said := []string{string(b.State)}
	received := lapse{b.ReceiveBegan, orEnd(b.ReceiveBegan, b.ReceiveEnded, b.SendEnded, end)}
	if r.Received = a.words(received); r.Received != "" {
		r.Spans = append(r.Spans, a.draw("received", received, y+4))
		said = append(said, "received "+r.Received)
	}
	if waited := waiting(b, end); !waited.from.IsZero() {
		r.Spans = append(r.Spans, a.draw("waiting", waited, y+5+laneHeight))
		r.Waited = Span(waited.to.Sub(waited.from))
		said = append(said, "waited "+r.Waited)
	}
	sent := lapse{b.SendBegan, orEnd(b.SendBegan, b.SendEnded, end)}
	if r.Uploaded = a.words(sent); r.Uploaded != "" && b.State != BlobExists && b.State != BlobMounted {
		r.Spans = append(r.Spans, a.draw("uploading", sent, y+5+laneHeight))
		said = append(said, "uploaded "+r.Uploaded)
	} else if r.Uploaded = ""; !b.SendEnded.IsZero() {
		r.Mark, r.MarkY = percent(a.at(b.SendEnded)), y+5+laneHeight+laneHeight/2
		said = append(said, "known to be there after "+Span(b.SendEnded.Sub(a.start)))
	}
	r.Text = r.Short + ": " + joinWords(said...)
	return r
}

// lapse is some time.
type lapse struct{ from, to time.Time }

// waiting is the time that a blob was here whole and nothing was done with it.
func waiting(b Blob, end time.Time) lapse {
	to := orEnd(b.ReceiveEnded, b.SendBegan, b.SendEnded, end)
	if b.ReceiveEnded.IsZero() || to.Sub(b.ReceiveEnded) < time.Millisecond {
		return lapse{}
	}
	return lapse{b.ReceiveEnded, to}
}

// orEnd is the first time that is known of those at which something ended that
// began at from.
func orEnd(from time.Time, ends ...time.Time) time.Time {
	for _, t := range ends {
		if !t.IsZero() {
			if t.Before(from) {
				return from
			}
			return t
		}
	}
	return from
}

func (a axis) words(s lapse) string {
	if s.from.IsZero() {
		return ""
	}
	return "from " + Span(s.from.Sub(a.start)) + " to " + Span(s.to.Sub(a.start))
}

func (a axis) draw(class string, s lapse, y int) timelineSpan {
	from, to := a.at(s.from), a.at(s.to)
	const least = 0.3 // per cent: what was quick is still seen
	return timelineSpan{class, percent(min(from, 100-least)), percent(max(to-from, least)), y, laneHeight}
}

// ticks are at most seven round times.
func (a axis) ticks() []tick {
	const most = 6
	step := math.Pow(10, math.Floor(math.Log10(a.span.Seconds()/most)))
	for _, times := range []float64{1, 2, 5, 10} {
		if a.span.Seconds()/(step*times) <= most {
			step *= times
			break
		}
	}
	var ticks []tick
	for i := range most + 1 {
		t := time.Duration(float64(i) * step * float64(time.Second))
		if t > a.span {
			break
		}
		words := Span(t.Round(time.Microsecond))
		if i == 0 {
			words = "0"
		}
		ticks = append(ticks, tick{percent(a.at(a.start.Add(t))), words})
	}
	return ticks
}
