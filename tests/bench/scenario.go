package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"pushproxy/tests/bench/link"
)

// scenario is steps that follow each other on one scene, and the sides that take turns at them.
type scenario struct {
	name  string
	sides []side
	steps []step
	// begin makes what the steps need on a fresh scene: new random bytes, stored where the client wants them.
	begin  func(ctx context.Context, s *scene) error
	rounds int // at most; 0 is no limit
}

// side is one way to do it.
type side struct {
	name     string
	proxied  bool   // through pushproxy, else straight to the upstream
	storage  string // of pushproxy
	sink     bool   // the upstream discards what it gets, else it is distribution
	uncached bool   // distribution knows nothing of blobs in memory
	line     bool   // the upstream is at the end of the long line, else on loopback
	server   bool   // the upstream itself is what is measured
}

// step is one thing that is measured.
type step struct {
	name    string                                    // of its samples
	prepare func(ctx context.Context, s *scene) error // not timed; may be nil
	run     func(ctx context.Context, s *scene) error
	check   func(ctx context.Context, s *scene) error // not timed, whether the upstream has it now; may be nil
	bytes   int64                                     // that are moved, for speeds and processor time
	count   int                                       // of requests or blobs, for rates
}

// sample is what one step took on one side in one round.
type sample struct {
	step, side string
	err        error
	seconds    float64
	bytes      int64
	count      int
	requests   int     // that the upstream saw
	sent       int64   // bytes that went to the upstream over the line, 0 without a line
	cpu        float64 // seconds of the measured server, with children
	anonymous  int64   // peak bytes of it
	watched    bool    // cpu and anonymous are known
}

const stepTimeout = 15 * time.Minute

// measure runs every scenario that one of the rows needs.
func (b *bench) measure(ctx context.Context, rows []row) {
	needed := map[string]bool{}
	for _, r := range rows {
		needed[r.step] = true
	}
	for _, sc := range b.scenarios(ctx, needed) {
		last := -1
		for i, st := range sc.steps {
			if needed[st.name] {
				last = i
			}
		}
		if last < 0 || len(sc.sides) == 0 {
			continue
		}
		sc.steps = sc.steps[:last+1]
		rounds := b.rounds
		if sc.rounds > 0 {
			rounds = min(rounds, sc.rounds)
		}
		for round := range rounds {
			for _, sd := range sc.sides {
				if ctx.Err() != nil {
					return
				}
				fmt.Fprintf(os.Stderr, "%s, round %d of %d, %s:", sc.name, round+1, rounds, sd.name)
				b.turn(ctx, sc, sd, needed)
				fmt.Fprintln(os.Stderr)
			}
		}
	}
}

// turn sets up a fresh scene for one side and runs the steps on it. What fails is a sample too, and ends the turn.
func (b *bench) turn(ctx context.Context, sc scenario, sd side, needed map[string]bool) {
	s, err := b.open(ctx, sd)
	if err == nil {
		defer s.close()
		err = sc.begin(ctx, s)
	}
	for _, st := range sc.steps {
		var one sample
		if err == nil {
			one, err = b.step(ctx, s, st, needed[st.name])
		}
		one.step, one.side, one.err = st.name, sd.name, err
		if !needed[st.name] {
			continue
		}
		b.samples = append(b.samples, one)
		if err != nil {
			b.failures++
			b.remark("failed: %s, %s: %v", st.name, sd.name, err)
			continue
		}
		fmt.Fprintf(os.Stderr, " %s %.3g s", st.name, one.seconds)
	}
}

// step measures one step. A step that only leads to a later one goes over an open line: that takes less time.
func (b *bench) step(ctx context.Context, s *scene, st step, timed bool) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	s.setLine(link.Profile{})
	if timed && s.side.line {
		s.setLine(b.line())
	}
	if st.prepare != nil {
		if err := st.prepare(ctx, s); err != nil {
			return sample{}, err
		}
	}
	s.settle(ctx)
	requests, sent := s.seen()
	watch := watchProcess(s.watched)
	start := time.Now()
	err := st.run(ctx, s)
	took := time.Since(start)
	if err != nil {
		watch.stop()
		return sample{}, s.explain(err)
	}
	cpu, anonymous := watch.stop()
	s.settle(ctx)
	after, sentAfter := s.seen()
	if st.check != nil {
		if err := st.check(ctx, s); err != nil {
			return sample{}, err
		}
	}
	return sample{
		seconds: took.Seconds(), bytes: st.bytes, count: st.count, requests: after - requests, sent: sentAfter - sent,
		cpu: cpu, anonymous: anonymous, watched: s.watched != 0,
	}, nil
}

// of returns the samples of a step on a side, failed ones too.
func (b *bench) of(step, side string) []sample {
	return slices.DeleteFunc(slices.Clone(b.samples), func(s sample) bool { return s.step != step || s.side != side })
}
