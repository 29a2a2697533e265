package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"pushproxy/blobcache"
	"pushproxy/status"
)

// collectEvery is how often the running program collects.
const collectEvery = 10 * time.Minute

// collector keeps the cache within its limits.
type collector struct {
	cache   *blobcache.Cache
	ballast *ballast
	limits  blobcache.Limits
	log     *slog.Logger
	// removed is called when blobs have left the cache; nil: nobody is to know.
	removed func(ctx context.Context) error
}

func newCollector(cache *blobcache.Cache, b *ballast, c CacheConfig, needed func() map[digest.Digest]bool, log *slog.Logger) *collector {
	return &collector{cache: cache, ballast: b, log: log, limits: blobcache.Limits{Quota: size(c.Quota), MaxAge: c.MaxAge, Idle: uploadIdle, Needed: needed}}
}

// run collects at once and then periodically, until ctx ends.
func (c *collector) run(ctx context.Context) {
	for {
		r, err := c.collect(ctx, false)
		switch {
		case err != nil && ctx.Err() == nil:
			c.log.Warn("the cache could not be collected; it is tried again", "in", collectEvery, "error", err)
		case r.Removed > 0 || r.Swept > 0:
			c.log.Info("cache collected", "blobs", r.Blobs-r.Removed, "bytes", r.Bytes-r.Freed, "removed", r.Removed, "freed", r.Freed, "swept", r.Swept)
		}
		select {
		case <-time.After(collectEvery):
		case <-ctx.Done():
			return
		}
	}
}

func (c *collector) collect(ctx context.Context, dryRun bool) (blobcache.Collected, error) {
	limits := c.limits
	limits.DryRun = dryRun
	r, err := c.cache.Collect(ctx, limits)
	if errors.Is(err, blobcache.ErrFull) {
		// What is to go cannot go without room.
		first := r
		err = c.ballast.lend(func() (err error) {
			r, err = c.cache.Collect(ctx, limits)
			return err
		})
		r.Removed += first.Removed
		r.Freed += first.Freed
	}
	if err == nil && !dryRun && c.removed != nil {
		err = c.removed(ctx)
	}
	return r, err
}

func gcCommand() *cobra.Command {
	var dryRun, asJSON bool
	c := &cobra.Command{
		Use:   "gc",
		Short: "Collect what the cache need not keep",
		Long: "Collect what the cache need not keep: blobs over cache.quota or cache.max_age, least recently used\n" +
			"first, and what dead uploads left. A blob is condemned by one collection and removed by one that comes at\n" +
			"least ten minutes later. A running pushproxy collects by itself; this asks it to do so now.",
		Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, config Config, _ []string) error {
			var r blobcache.Collected
			path := "/v1/gc"
			if dryRun {
				path += "?dry-run=true"
			}
			err := maintain(cmd.Context(), config, path, &r, func(s *offline) (err error) {
				r, err = newCollector(s.cache, s.ballast, config.Cache, s.queue.Needed, nil).collect(cmd.Context(), dryRun)
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			verb := "removed"
			if dryRun {
				verb = "would go"
			}
			cmd.Printf("%d blobs with %s; %d %s (%s), %d condemned, %d kept though over a limit, %d dead uploads dropped\n",
				r.Blobs, status.Bytes(r.Bytes), r.Removed, verb, status.Bytes(r.Freed), r.Condemned, r.Kept, r.Swept)
			return nil
		}),
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
