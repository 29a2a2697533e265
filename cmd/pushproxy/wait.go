package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func waitCommand() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "wait IMAGE|JOB",
		Short: "Wait until the upstream has an image that was queued",
		Long: "Wait until the upstream has an image that was queued. The exit status is the upstream's truth: 0 only\n" +
			"when it has answered that it has the image. The image is written as in the push.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%s is not there after %s; it stays queued", args[0], timeout))
				defer cancel()
			}
			response, err := ask(ctx, c.DataDir, "GET", "/v1/wait?ref="+url.QueryEscape(args[0]))
			if err != nil {
				return ended(ctx, err)
			}
			defer response.Body.Close()
			p := &waitProgress{out: cmd.ErrOrStderr(), lively: !asJSON && isTerminal(cmd.ErrOrStderr())}
			last, err := p.follow(response.Body)
			if err != nil {
				return ended(ctx, err)
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
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the outcome as JSON")
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long (default never)")
	return c
}

// ended prefers the reason why the context ended to what it led to.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// waitProgress shows how far a wait is, on one line that changes.
type waitProgress struct {
	out    io.Writer
	lively bool
	blobs  map[string]waited
	state  string
	width  int // of what is on the line
}

// follow reads the lines of a wait to the last one, which is its outcome.
func (p *waitProgress) follow(r io.Reader) (last waited, err error) {
	p.blobs = map[string]waited{}
	decoder := json.NewDecoder(r)
	for {
		var line waited
		switch err := decoder.Decode(&line); {
		case err == io.EOF && (last.Done || last.Error != ""):
			p.clear()
			return last, nil
		case err == io.EOF:
			return last, errors.New("the running pushproxy ended; what is queued goes on when it runs again")
		case err != nil:
			return last, err
		}
		last = line
		p.show(line)
	}
}

func (p *waitProgress) show(line waited) {
	if !p.lively {
		return
	}
	if line.Job != nil {
		p.state = line.Job.State
	}
	if line.Blob != "" {
		p.blobs[line.Blob] = line
	}
	var current, total int64
	for _, b := range p.blobs {
		current += b.Current
		total += b.Total
	}
	const cells = 30
	text := p.state
	if total > 0 {
		full := int(min(cells, current*cells/total))
		text = fmt.Sprintf("%-10s [%s%s] %d of %d MiB", p.state, strings.Repeat("=", full), strings.Repeat(" ", cells-full), current>>20, total>>20)
	}
	p.clear()
	fmt.Fprint(p.out, text)
	p.width = len(text)
}

func (p *waitProgress) clear() {
	if p.width > 0 {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}
