package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/tmaxmax/go-sse"

	"pushproxy/oci"
)

func waitCommand() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait IMAGE|JOB",
		Short: "Wait until the upstream has an image that was queued",
		Long: "Wait until the upstream has an image that was queued. The exit status is the upstream's truth: 0 only\n" +
			"when it has answered that it has the image. The image is written as in the push; a job as\n" +
			"pushproxy queue ls lists it.",
		Args: cobra.ExactArgs(1),
		RunE: configured(func(cmd *cobra.Command, c Config, args []string) error {
			last, err := wait(cmd, overSocket(c.DataDir), args[0], timeout, asJSON)
			if err != nil {
				last = waited{Error: err.Error(), Job: last.Job}
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), last); err != nil {
					return err
				}
			}
			if !last.Done {
				return errors.New(printable(last.Error))
			}
			if !asJSON {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is upstream: %s\n", args[0], last.Digest)
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long (default never)")
	return c
}

// errTimeout ends a wait that has taken as long as it may.
var errTimeout = errors.New("the time is over")

// wait asks the running pushproxy until it knows, and shows how far it is unless
// quiet. With an error it returns what was known last.
func wait(cmd *cobra.Command, i *instance, what string, timeout time.Duration, quiet bool) (last waited, err error) {
	ctx := cmd.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errTimeout)
		defer cancel()
	}
	p := &waitProgress{}
	response, err := i.ask(ctx, "GET", "/v1/wait?ref="+url.QueryEscape(what))
	if err == nil {
		defer response.Body.Close()
		if out, lively := terminal(cmd.ErrOrStderr()); lively && !quiet {
			defer p.draw(ctx, out, i)()
		}
		last, err = p.follow(response.Body)
	}
	switch cause := context.Cause(ctx); {
	case err == nil || cause == nil:
		return last, err
	case errors.Is(cause, errTimeout) && last.Job != nil:
		return last, fmt.Errorf("%s is not there after %s; it stays queued: %s", what, timeout, p.state)
	case errors.Is(cause, errTimeout):
		return last, fmt.Errorf("%s is not there after %s: the upstream has not answered yet", what, timeout)
	default:
		return last, cause
	}
}

// waitProgress shows how far a wait is: the state of the job, and a bar per blob
// of its push.
type waitProgress struct {
	board board
	mu    sync.Mutex
	state string
	job   string
	clear func()
}

// draw begins to show it, with bars if the running pushproxy tells of pushes.
// What it returns ends that.
func (p *waitProgress) draw(ctx context.Context, out *os.File, i *instance) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	screen := newScreen(out, "waiting; Ctrl-C ends the wait, not the push", func(width, height int) []string {
		return p.rows(time.Now(), width, height)
	})
	p.clear = sync.OnceFunc(screen.close)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		// The outcome is told by who is waited for; this is but for the eye.
		_ = oci.Guarded(func() error {
			return i.follow(ctx, func(bool) error { return nil }, func(e sse.Event) error {
				_, err := p.board.take(e, time.Now())
				return err
			})
		})
	}()
	return func() {
		cancel()
		<-followed
		p.clear()
	}
}

// follow reads the lines of a wait to the last one, which is its outcome.
func (p *waitProgress) follow(r io.Reader) (last waited, err error) {
	if p.clear != nil {
		defer p.clear()
	}
	decoder := json.NewDecoder(r)
	for {
		var line waited
		switch err := decoder.Decode(&line); {
		case err == io.EOF && (last.Done || last.Error != ""):
			return last, nil
		case err == io.EOF:
			return last, errors.New("the running pushproxy ended; what is queued goes on when it runs again")
		case err != nil:
			return last, err
		}
		last = line
		p.take(line)
	}
}

func (p *waitProgress) take(line waited) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if line.Job == nil {
		return
	}
	p.job, p.state = line.Job.ID, fmt.Sprintf("%s: job %s is %s", printable(line.Job.image()), printable(line.Job.ID), line.Job.word())
	if line.Job.Error != "" {
		p.state += ": " + printable(line.Job.Error)
	}
}

func (p *waitProgress) rows(now time.Time, width, height int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	all := []row{{text: cmp.Or(p.state, "asking the upstream")}}
	for _, push := range p.board.now.Pushes {
		if p.job != "" && push.Job == p.job {
			all = append(all, blobRows(push, now, width)...)
		}
	}
	return fit(all, height)
}
