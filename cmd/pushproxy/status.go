package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/status"
)

func statusCommand() *cobra.Command {
	var from instanceFlags
	var w wanted
	var live, asJSON bool
	var limit int
	c := &cobra.Command{
		Use:   "status [PUSH]",
		Short: "Show what is being pushed, what is queued and how it ended",
		Long: "Show the pushes in flight, the queue, the last finished pushes, the upstreams and the store. With the id of a\n" +
			"push, explain it: everything that was done for it, blob by blob, and what that saved.\n\n" +
			"--watch shows a bar per blob in docker's words: = is at the upstream, - is here and not yet there. Piped, it\n" +
			"prints a line for each change, with --json one event of the stream per line. It goes on when pushproxy is\n" +
			"started anew. With a push it ends when that does, and the exit status is 1 if it failed.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return fmt.Errorf("--limit: %d is not a number of pushes, 0 or more", limit)
			}
			if cmd.Flags().Changed("limit") && (live || len(args) == 1) {
				return errors.New("--limit is for the list of finished pushes: not with --watch or the id of a push")
			}
			if w.repository != "" && len(args) == 1 {
				return errors.New("--repository chooses among pushes: not with the id of one")
			}
			i, err := from.open(cmd)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return i.explain(cmd, args[0], live, asJSON)
			}
			if live {
				return watch(cmd, i, w, asJSON)
			}
			return i.show(cmd, w, limit, asJSON)
		},
	}
	from.add(c.Flags())
	c.Flags().BoolVar(&live, "watch", false, "go on showing what happens")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON; with --watch one event per line")
	c.Flags().IntVar(&limit, "limit", 10, "how many finished pushes to show")
	c.Flags().StringVar(&w.repository, "repository", "", "only pushes to repositories with this `text` in registry/repository")
	return c
}

// show prints everything at a glance.
func (i *instance) show(cmd *cobra.Command, w wanted, limit int, asJSON bool) error {
	var s status.Snapshot
	if err := i.order(cmd.Context(), "GET", "/v1/status", &s); err != nil {
		return err
	}
	if err := understood(s); err != nil {
		return err
	}
	finished := s.Finished
	s = w.of(s)
	if len(s.Finished) < limit && len(finished) >= 50 {
		more, err := i.finished(cmd, w, limit)
		if err != nil {
			return err
		}
		s.Finished = more
	}
	s.Finished = s.Finished[:min(len(s.Finished), limit)]
	if asJSON {
		return printJSON(cmd.OutOrStdout(), s)
	}
	s.Now = s.Now.Local()
	return status.WriteSnapshot(localized{cmd.OutOrStdout()}, s)
}

// finished lists further back than a snapshot goes.
func (i *instance) finished(cmd *cobra.Command, w wanted, limit int) (out []status.Push, err error) {
	for before := ""; len(out) < limit; {
		var page struct {
			Pushes []status.Push `json:"pushes"`
			Next   string        `json:"next"`
		}
		query := url.Values{"limit": {"200"}}
		if before != "" {
			query.Set("before", before)
		}
		if err := i.order(cmd.Context(), "GET", "/v1/pushes?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		for _, p := range page.Pushes {
			if p.Over() && w.has(p) {
				out = append(out, p)
			}
		}
		if page.Next == "" {
			break
		}
		before = page.Next
	}
	return out, nil
}

// explain prints one push, or watches it to its end.
func (i *instance) explain(cmd *cobra.Command, id string, live, asJSON bool) error {
	var p status.Push
	err := i.order(cmd.Context(), "GET", "/v1/pushes/"+url.PathEscape(id), &p)
	if refused := (*answer)(nil); errors.As(err, &refused) && refused.status == http.StatusNotFound {
		return fmt.Errorf("there is no push %s: it was never here or is forgotten; pushproxy status lists the last ones", printable(id))
	}
	if err != nil {
		return err
	}
	switch {
	case live && !p.Over():
		return watch(cmd, i, wanted{push: p.ID}, asJSON)
	case asJSON:
		err = printJSON(cmd.OutOrStdout(), p)
	default:
		err = status.WriteExplanation(localized{cmd.OutOrStdout()}, time.Now(), p)
	}
	if err == nil && live && (p.State == status.Failed || p.State == status.Stopped) {
		return errReported
	}
	return err
}
