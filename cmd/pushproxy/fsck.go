package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
)

// offline is a data directory that no pushproxy serves, opened by a command.
type offline struct {
	cache   *blobcache.Cache
	queue   *forward.Queue
	ballast *ballast
	// damaged says what of the journal cannot be read.
	damaged []string
}

// stopped runs do with the data directory of a pushproxy that does not run.
func stopped(ctx context.Context, c Config, do func(*offline) error) (err error) {
	restrictFiles()
	s, err := openStores(ctx, c.DataDir, c.Storage)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	o := &offline{cache: blobcache.New(s.blobs, s.blobs), ballast: s.ballast}
	o.queue = &forward.Queue{Forward: forward.New(o.cache, &metadata.DB{KV: s.facts})}
	if o.damaged, err = o.queue.Open(ctx); err != nil {
		return err
	}
	return do(o)
}

// percentage is "10%" or "10".
func percentage(text string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || p < 0 || p > 100 {
		return 0, fmt.Errorf("--read-data: %q is not a percentage such as 10%%", text)
	}
	return p, nil
}

func fsckCommand() *cobra.Command {
	var asJSON bool
	var readData string
	c := &cobra.Command{
		Use:   "fsck",
		Short: "Check the cache and the journal for damage",
		Long: "Check that every blob of the cache is there, read as many of them as --read-data says against their\n" +
			"digests, and check that the journal of queued pushes can be read. A damaged blob is set aside: the next\n" +
			"push of it brings it again. The exit status is 1 when anything was damaged.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			percent, err := percentage(readData)
			if err != nil {
				return err
			}
			var r blobcache.Checked
			var journal []string
			err = order(cmd.Context(), config.DataDir, "POST", fmt.Sprintf("/v1/fsck?read-data=%g", percent), &r)
			if errors.Is(err, errNotRunning) {
				err = stopped(cmd.Context(), config, func(o *offline) (err error) {
					journal = o.damaged
					r, err = o.cache.Check(cmd.Context(), percent)
					return err
				})
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				cmd.Printf("%d blobs, %d of them read (%d MiB), %d damaged and set aside\n", r.Blobs, r.Read, r.Bytes>>20, len(r.Damaged))
			}
			for _, d := range r.Damaged {
				cmd.PrintErrln("damaged:", d)
			}
			for _, line := range journal {
				cmd.PrintErrln("damaged:", line)
			}
			if err == nil && len(r.Damaged)+len(journal) > 0 {
				return errReported
			}
			return err
		},
	}
	c.Flags().StringVar(&readData, "read-data", "100%", "how many of the blobs are read, chosen by chance")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// warnDamaged says which jobs of the journal cannot be read: each is a promise.
func warnDamaged(log *slog.Logger, damaged []string) {
	for _, what := range damaged {
		log.Error("a queued push is damaged; push that image again", "error", what)
	}
}
