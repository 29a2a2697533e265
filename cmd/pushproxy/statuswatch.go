package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/tmaxmax/go-sse"

	"pushproxy/status"
)

// errWatched ends a watch that has seen what it waited for.
var errWatched = errors.New("watched")

// viewer is a way to show what happens.
type viewer struct {
	show func(sse.Event, news) error
	say  func(string) error // about the connection
	end  func()
}

// watch shows what happens until ctx ends or, where it is about one push, that
// is over: then its end is the outcome.
func watch(cmd *cobra.Command, i *instance, w wanted, asJSON bool) error {
	b := &board{wanted: w}
	v := lineViewer(cmd.OutOrStdout())
	if out, lively := terminal(cmd.OutOrStdout()); asJSON {
		v = jsonViewer(cmd.OutOrStdout(), cmd.ErrOrStderr(), w)
	} else if lively {
		s := newScreen(out, "watching; Ctrl-C ends it", func(width, height int) []string { return b.rows(time.Now(), width, height) })
		v = screenViewer(s)
	}
	defer v.end()
	var outcome *status.Push
	err := i.follow(cmd.Context(), func(connected bool) error {
		b.connected(connected)
		if connected {
			return v.say("connected to pushproxy again")
		}
		return v.say("the connection to pushproxy is lost; this goes on when it is back")
	}, func(e sse.Event) error {
		n, err := b.take(e, time.Now())
		if err == nil {
			err = v.show(e, n)
		}
		if err == nil && n.ended != nil && w.push != "" {
			outcome, err = n.ended, errWatched
		}
		return err
	})
	switch {
	case errors.Is(err, errWatched) && (outcome.State == status.Failed || outcome.State == status.Stopped):
		return errReported
	case errors.Is(err, errWatched), errors.Is(err, context.Canceled) && cmd.Context().Err() != nil:
		return nil // whoever watched has seen enough
	}
	return err
}

func (b *board) connected(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = !yes
}

// lineViewer writes what is new in lines with the time.
func lineViewer(out io.Writer) viewer {
	write := func(line string) error {
		_, err := fmt.Fprintln(out, timed(line))
		return err
	}
	return viewer{say: write, end: func() {}, show: func(_ sse.Event, n news) error {
		for _, line := range n.lines {
			if err := write(line); err != nil {
				return err
			}
		}
		return nil
	}}
}

func timed(line string) string { return time.Now().Format(time.TimeOnly) + " " + line }

// screenViewer writes in lines what ended or needs a person; bars show the rest.
func screenViewer(s *screen) viewer {
	return viewer{say: func(line string) error { return s.say(timed(line)) }, end: s.close, show: func(_ sse.Event, n news) error {
		for _, line := range n.keep {
			if err := s.say(timed(line)); err != nil {
				return err
			}
		}
		return nil
	}}
}

// jsonViewer writes each event on a line of its own, and about the connection
// elsewhere.
func jsonViewer(out, errs io.Writer, w wanted) viewer {
	say := func(line string) error {
		_, err := fmt.Fprintln(errs, "pushproxy:", line)
		return err
	}
	return viewer{say: say, end: func() {}, show: func(e sse.Event, _ news) error {
		data, err := w.data(e)
		if data == nil || err != nil {
			return err
		}
		line, err := json.Marshal(struct {
			Event string          `json:"event"`
			ID    string          `json:"id"`
			Data  json.RawMessage `json:"data"`
		}{e.Type, e.LastEventID, data})
		if err != nil {
			return err
		}
		_, err = out.Write(append(harmless(line), '\n'))
		return err
	}}
}

// data is what is wanted of an event: nil is nothing.
func (w wanted) data(e sse.Event) (json.RawMessage, error) {
	raw := json.RawMessage(e.Data)
	if w == (wanted{}) {
		return raw, nil
	}
	switch e.Type {
	case "snapshot":
		var s status.Snapshot
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, err
		}
		return json.Marshal(w.of(s))
	case "push":
		var p status.Push
		if err := json.Unmarshal(raw, &p); err != nil || !w.has(p) {
			return nil, err
		}
	case "queue":
		var jobs []status.Job
		if err := json.Unmarshal(raw, &jobs); err != nil {
			return nil, err
		}
		return json.Marshal(slices.Concat([]status.Job{}, w.jobs(jobs)))
	}
	return raw, nil
}
