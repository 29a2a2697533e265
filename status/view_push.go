package status

import (
	"slices"
	"strconv"
	"time"
)

// pushPageView is what push.html shows.
type pushPageView struct {
	Title    string
	Program  string
	Now      moment
	Push     pushView
	Tags     []string
	Open     bool // it goes on
	Timeline *timeline
	Steps    []stepView
	Blank    blobView
}

// stepView is one thing that was done.
type stepView struct {
	After       string // since the push began
	When        moment
	Blob, Short string // digest; empty: the push itself
	Op, Text    string
	Code        string // HTTP status; empty: none
	Bad         bool   // the status is a refusal
	Bytes, Took string
}

func newPushPage(p Push, program string, now time.Time) pushPageView {
	v := pushPageView{
		Program: program, Now: at(now, now), Push: newPush(p, now), Tags: p.Tags, Open: p.Finished.IsZero(),
		Timeline: newTimeline(p, now), Blank: newBlob(Blob{}, now),
	}
	v.Title = v.Push.Name + v.Push.Reference + " · pushproxy"
	steps := slices.SortedStableFunc(slices.Values(p.Steps), func(a, b Step) int { return a.When.Compare(b.When) })
	for _, s := range steps {
		v.Steps = append(v.Steps, newStep(s, p.Started, now))
	}
	return v
}

func newStep(s Step, began, now time.Time) stepView {
	v := stepView{
		After: Span(s.When.Sub(began)), When: at(s.When, now), Blob: s.Blob, Short: short(s.Blob), Op: s.Op, Text: s.Text,
		Bad: s.Code >= 400 && s.Code != 404, // 404 is an answer, not a fault
	}
	if s.Code > 0 {
		v.Code = strconv.Itoa(s.Code)
	}
	if s.Bytes > 0 {
		v.Bytes = Bytes(s.Bytes)
	}
	if s.Millis > 0 {
		v.Took = Span(time.Duration(s.Millis) * time.Millisecond)
	}
	return v
}
