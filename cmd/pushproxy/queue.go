package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/metadata"
	"pushproxy/status"
)

func queueCommand() *cobra.Command {
	queue := &cobra.Command{
		Use:   "queue",
		Short: "List, retry and drop queued pushes",
		Long: "List, retry and drop the pushes that were accepted and that an upstream does not have yet. A JOB is what\n" +
			"queue ls lists, and what the answer to the push said in Pushproxy-Job.",
	}
	asJSON := queue.PersistentFlags().Bool("json", false, "print JSON")
	ls := &cobra.Command{Use: "ls", Short: "List queued pushes", Args: cobra.NoArgs, RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
		var jobs []jobView
		if err := overSocket(c.DataDir).order(cmd.Context(), "GET", "/v1/jobs", &jobs); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), jobs)
		}
		return listJobs(cmd.OutOrStdout(), jobs)
	})}
	one := func(use, short, method, suffix string, query func() string) *cobra.Command {
		return &cobra.Command{Use: use + " JOB...", Short: short, Args: cobra.MinimumNArgs(1), RunE: configured(func(cmd *cobra.Command, c Config, ids []string) error {
			for _, id := range ids {
				var job jobView
				err := overSocket(c.DataDir).order(cmd.Context(), method, "/v1/jobs/"+url.PathEscape(id)+suffix+query(), &job)
				switch {
				case err != nil:
				case *asJSON:
					err = printJSON(cmd.OutOrStdout(), job)
				default:
					err = showJob(cmd.OutOrStdout(), job)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})}
	}
	none := func() string { return "" }
	var adopt bool
	retry := one("retry", "Try a push again now, also one that was parked", "POST", "/retry", func() string {
		if adopt {
			return "?adopt=true"
		}
		return ""
	})
	retry.Flags().BoolVar(&adopt, "adopt", false, "send it with the credential that there is now, though another was there when it was accepted")
	return group(queue, ls,
		one("show", "Show a queued push", "GET", "", none), retry,
		one("drop", "Forget a queued push: the upstream will not get it", "DELETE", "", none))
}

func listJobs(out io.Writer, jobs []jobView) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(out, "nothing is queued")
		return err
	}
	table := tabwriter.NewWriter(localized{out}, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "JOB\tSTATE\tAGE\tTRIES\tIMAGE\tREASON")
	for _, j := range jobs {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", j.ID, j.word(), status.Span(time.Since(j.Created).Truncate(time.Second)), j.Attempts, printable(j.image()), printable(j.Error))
	}
	return table.Flush()
}

// word is a job's state as status, too, calls it.
func (j jobView) word() string {
	switch j.State {
	case metadata.JobQueued:
		return "waiting"
	case metadata.JobRunning:
		return "sending"
	}
	return printable(j.State)
}

// image is how people write what the job pushes.
func (j jobView) image() string {
	if len(j.Tags) > 0 {
		return j.Repository + ":" + strings.Join(j.Tags, ",")
	}
	return j.Repository + "@" + j.Digest
}

func showJob(out io.Writer, j jobView) error {
	next := ""
	if j.NotBefore != nil && time.Until(*j.NotBefore) > 0 {
		next = j.NotBefore.Local().Format(time.RFC3339)
	}
	table := tabwriter.NewWriter(localized{out}, 0, 8, 2, ' ', 0)
	for _, row := range [][2]string{
		{"job", j.ID}, {"push", j.Push}, {"state", j.word()}, {"image", printable(j.image())}, {"digest", j.Digest}, {"superseded", strings.Join(j.Superseded, ", ")},
		{"credential", printable(j.Credential)}, {"accepted", j.Created.Local().Format(time.RFC3339)}, {"tries", fmt.Sprint(j.Attempts)},
		{"next try", next}, {"reason", printable(j.Error)},
	} {
		if row[1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
		}
	}
	return table.Flush()
}

// printable keeps what others said from steering the terminal.
func printable(s string) string { return status.Clean(s) }

// printableLines is printable for text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
