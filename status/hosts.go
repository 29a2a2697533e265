package status

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"pushproxy/authinject"
	"pushproxy/forward"
	"pushproxy/upstream"
)

const (
	// rateOver is the time over which the rate of an upstream is taken.
	rateOver = 5 * time.Second
	// mostLimits is how many of the limits that an upstream set are told.
	mostLimits = 5
	// mostHosts bounds the upstreams that are told of.
	mostHosts = 1000
)

// hostKey is an upstream as one principal reaches it: what others do there is
// not theirs to see.
type hostKey struct{ principal, host string }

// hostStats is how an upstream fares.
type hostStats struct {
	reachable  string
	since      time.Time
	why        string
	requests   int64
	failures   int64
	credential string    // of the last push
	expires    time.Time // of the token that was fetched last
	limits     []limit
	paused     time.Time
	pace       float64 // bytes per second of the last uploads; 0: none yet

	marks []mark // sent bytes, for the rate
	total int64  // bytes sent upstream
	rate  int64
	seq   int64
}

// limit is one that was met.
type limit struct {
	when time.Time
	text string
}

// mark is how much had been sent at a time.
type mark struct {
	when  time.Time
	total int64
}

func (t *Tracker) host(principal, host string) *hostStats {
	key := hostKey{principal, host}
	h := t.hosts[key]
	if h == nil {
		if len(t.hosts) >= mostHosts {
			clear(t.hosts)
		}
		h = &hostStats{}
		t.hosts[key] = h
	}
	t.seq++
	h.seq = t.seq
	return h
}

func (h *hostStats) asked(x *upstream.Exchange) {
	h.requests++
	now := x.Began.Add(x.Took)
	switch {
	case x.Failure == upstream.FailedCanceled:
		return
	case x.Status == 0:
		h.failures++
		h.is("no", strings.TrimPrefix(because(x.Failure), ": "), now)
	default:
		if x.Status/100 == 5 || x.Status == http.StatusTooManyRequests {
			h.failures++
		}
		h.is("yes", "", now)
	}
	if x.Sent > 0 && x.Status/100 == 2 && x.Took > 0 && x.Sent >= 64<<10 {
		pace := float64(x.Sent) / x.Took.Seconds()
		if h.pace == 0 {
			h.pace = pace
		}
		h.pace += (pace - h.pace) / 4
	}
}

func (h *hostStats) is(reachable, why string, when time.Time) {
	if h.reachable != reachable {
		h.reachable, h.since = reachable, when
	}
	h.why = why
}

func (h *hostStats) loggedIn(l *authinject.Event) {
	if l.Kind == authinject.EventToken && l.Outcome == authinject.Succeeded {
		h.expires = l.Until
	}
}

// slowed notes that an upstream asked for less.
func (h *hostStats) slowed(e *forward.Event) {
	until := e.When.Add(e.Delay)
	if until.After(h.paused) {
		h.paused = until
	}
	h.limits = append(h.limits, limit{e.When, fmt.Sprintf("429 at %s, fewer uploads at once until %s", e.When.Format(time.TimeOnly), until.Format(time.TimeOnly))})
	if len(h.limits) > mostLimits {
		h.limits = slices.Delete(h.limits, 0, 1)
	}
}

// rates takes the rate of each upstream, and reports whether one has changed.
func (t *Tracker) rates(now time.Time) (changed bool) {
	for _, h := range t.hosts {
		before := h.rate
		h.marks = append(h.marks, mark{now, h.total})
		for len(h.marks) > 1 && now.Sub(h.marks[0].when) > rateOver {
			h.marks = slices.Delete(h.marks, 0, 1)
		}
		h.rate = 0
		if first := h.marks[0]; now.After(first.when) {
			h.rate = max(0, int64(float64(h.total-first.total)/now.Sub(first.when).Seconds()))
		}
		if h.rate != before {
			t.seq++
			h.seq = t.seq
			changed = true
		}
	}
	return changed
}

// saved estimates how much longer a direct push would have taken.
func (t *Tracker) saved(p *tracked) int64 {
	s := p.sum()
	spared := s.ExistedBytes + s.MountedBytes
	if spared == 0 {
		return 0
	}
	var sent int64
	var took time.Duration
	for _, st := range p.steps {
		if st.Op == "upload" && st.Bytes >= 64<<10 && st.Code/100 == 2 {
			sent, took = sent+st.Bytes, took+time.Duration(st.Millis)*time.Millisecond
		}
	}
	pace := t.host(p.Principal, p.Upstream).pace
	if took > 0 {
		pace = float64(sent) / took.Seconds()
	}
	if pace == 0 {
		return 0
	}
	return int64(float64(spared) / pace * 1000)
}
