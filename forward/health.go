package forward

import (
	"context"
	"time"

	"errors"

	"pushproxy/oci"
)

const (
	jobsAtOnce = 8
	// probeEvery is how often an upstream that was not there is asked whether it is
	// back, sickEvery one that answers but fails, and probeFor how long it may
	// take to say so.
	probeEvery = time.Second
	sickEvery  = 5 * time.Second
	probeFor   = 5 * time.Second
	// illAtMost bounds how long an upstream that answers but fails is left alone
	// between two attempts.
	illAtMost = 30 * time.Second
)

// Policy is how the jobs of one upstream are carried out.
type Policy struct {
	AtOnce int      // jobs at once; 0: eight
	Quiet  []Window // when no job begins
}

// Window is a time of each day, local time. From and To count from midnight; a
// window whose To is not after From goes on until To of the next day.
type Window struct{ From, To time.Duration }

// wait is how long the window lasts at t; 0 outside.
func (w Window) wait(t time.Time) time.Duration {
	at := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
	const day = 24 * time.Hour
	length := (w.To - w.From + day) % day
	if length == 0 {
		length = day
	}
	since := (at - w.From + day) % day
	return max(0, length-since)
}

// health is how an upstream fares. It is under Queue.mu.
type health struct {
	running int
	ills    int       // failures in a row
	until   time.Time // left alone until then
	dead    bool      // it did not even answer
	sick    bool      // nor did a probe find it well, so the next one can tell when it is
	blind   bool      // a probe found it well, though it is not: probes tell nothing
	rests   bool      // it said when it wants to be asked again, or that it is asked too often
	probing bool
	probed  time.Time
}

func (q *Queue) health(host string) *health {
	h := q.hosts[host]
	if h == nil {
		h = &health{}
		q.hosts[host] = h
	}
	return h
}

func (h *health) ailing() bool { return h.ills > 0 }

func (h *health) well() { *h = health{running: h.running, probing: h.probing, probed: h.probed} }

// ill notes a failure; after is the upstream's Retry-After, dead that there was
// no answer at all, busy that it is asked too often.
func (h *health) ill(after time.Duration, dead, busy bool) {
	h.ills++
	h.dead, h.rests = dead, busy || after > 0
	h.blind = h.blind && !dead
	delay := max(min(backoff(h.ills), illAtMost), min(after, longestAfter))
	if until := time.Now().Add(delay); until.After(h.until) {
		h.until = until
	}
}

// allows returns how long no job of the upstream may begin; 0: at once.
func (h *health) allows(now time.Time, p Policy) time.Duration {
	for _, w := range p.Quiet {
		if wait := w.wait(now); wait > 0 {
			return wait
		}
	}
	return max(0, h.until.Sub(now))
}

// width is how many jobs may run at once.
func (h *health) width(p Policy) int {
	switch {
	case h.ailing():
		return 1
	case p.AtOnce > 0:
		return p.AtOnce
	}
	return jobsAtOnce
}

func (h *health) probeDue(now time.Time) bool {
	every := sickEvery
	if h.dead {
		every = probeEvery
	}
	return !h.probing && !h.rests && !h.blind && h.running == 0 && now.Sub(h.probed) >= every
}

// probe asks an upstream that failed whether it answers, so that its jobs go on
// as soon as it, or the network, is back.
func (q *Queue) probe(ctx context.Context, host, principal string) {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	err := q.Forward.guarded(func() error {
		t, err := q.Target(ctx, principal, host)
		if err == nil {
			err = t.Client.Alive(ctx)
		}
		return err
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.health(host)
	h.probing, h.probed = false, time.Now()
	switch {
	case err != nil && !errors.Is(err, oci.ErrDenied):
		h.sick = true
	case h.dead || h.sick:
		// One job tries what the answer is worth; without success the next pause is
		// longer.
		h.until = time.Time{}
		q.nudge()
	default:
		h.blind = true
	}
}

// Answered tells the queue that an upstream has just done what it was asked:
// its jobs need not wait any longer.
func (q *Queue) Answered(host string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if h := q.hosts[host]; h != nil && h.ailing() {
		h.well()
		q.hurry(host)
		q.nudge()
	}
}

// Quiet reports whether nothing is to be sent to the upstream now that can wait.
func (q *Queue) Quiet(host string) bool {
	for _, w := range q.policy(host).Quiet {
		if w.wait(time.Now()) > 0 {
			return true
		}
	}
	return false
}
