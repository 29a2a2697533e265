package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tmaxmax/go-sse"

	"pushproxy/status"
)

func topCommand() *cobra.Command {
	var from instanceFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "top [UPSTREAM]...",
		Short: "Show the upstreams: rate, uploads, requests, failures, limits",
		Long: "Show of each upstream, or of those named, whether it is reachable, the bytes it is sent in a second, how many\n" +
			"uploads run and wait, how many requests there were and how many failed, the credential in use and the limits\n" +
			"that were met. In a terminal it goes on until Ctrl-C; piped or with --json it prints once.",
		RunE: func(cmd *cobra.Command, hosts []string) error {
			i, err := from.open(cmd)
			if err != nil {
				return err
			}
			if out, lively := terminal(cmd.OutOrStdout()); lively && !asJSON {
				return i.top(cmd.Context(), out, hosts)
			}
			var s status.Snapshot
			if err := i.order(cmd.Context(), "GET", "/v1/status", &s); err != nil {
				return err
			}
			if err := understood(s); err != nil {
				return err
			}
			all, err := chosen(s.Upstreams, hosts)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return status.WriteUpstreams(cmd.OutOrStdout(), s.Now.Local(), all)
		},
	}
	from.add(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// top shows the upstreams until ctx ends.
func (i *instance) top(ctx context.Context, out *os.File, hosts []string) error {
	b := &board{}
	s := newScreen(out, "upstreams; Ctrl-C ends it", func(int, int) []string {
		b.mu.Lock()
		defer b.mu.Unlock()
		head := "pushproxy " + printable(b.now.Pushproxy)
		if b.lost {
			head = notConnected
		}
		var text bytes.Buffer
		// An upstream may have gone with a restart; those that are there are shown.
		all, _ := chosen(b.now.Upstreams, hosts)
		_ = status.WriteUpstreams(&text, time.Now(), all) // a buffer takes everything
		return append([]string{head}, strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")...)
	})
	defer s.close()
	checked := false
	err := i.follow(ctx, func(connected bool) error {
		b.connected(connected)
		return nil
	}, func(e sse.Event) error {
		if _, err := b.take(e, time.Now()); err != nil || checked {
			return err
		}
		checked = true
		_, err := chosen(b.now.Upstreams, hosts)
		return err
	})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// chosen returns the upstreams that are named, or all.
func chosen(all []status.Upstream, hosts []string) ([]status.Upstream, error) {
	if len(hosts) == 0 {
		return slices.Concat([]status.Upstream{}, all), nil
	}
	out, known := []status.Upstream{}, []string{}
	for _, u := range all {
		known = append(known, u.Host)
		if slices.Contains(hosts, u.Host) {
			out = append(out, u)
		}
	}
	for _, host := range hosts {
		if !slices.Contains(known, host) {
			return out, fmt.Errorf("there is no upstream %s; pushproxy knows %s", printable(host), printable(strings.Join(known, ", ")))
		}
	}
	return out, nil
}
