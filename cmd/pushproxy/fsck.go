package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/status"
)

// offline is a data directory that no pushproxy serves, opened by a command.
type offline struct {
	cache   *blobcache.Cache
	meta    *metadata.DB
	queue   *forward.Queue
	ballast *ballast
}

// checked is what fsck found: of the cache, and of what is known beside it.
type checked struct {
	blobcache.Checked
	Metadata metadata.Checked `json:"metadata"`
}

// checkStores checks all that is stored, and reads percent of the blobs.
func checkStores(ctx context.Context, cache *blobcache.Cache, meta *metadata.DB, percent float64) (r checked, err error) {
	if r.Metadata, err = meta.Check(ctx); err != nil {
		return r, err
	}
	r.Checked, err = cache.Check(ctx, percent)
	return r, err
}

// stopped runs do with the data directory of a pushproxy that does not run.
func stopped(ctx context.Context, c Config, do func(*offline) error) (err error) {
	restrictFiles()
	if _, err := os.Stat(c.DataDir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data_dir: there is no %s: pushproxy serve makes it; another one is named with --data-dir or --config", c.DataDir)
	}
	s, err := openStores(ctx, c.DataDir, c.Storage, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	o := &offline{cache: blobcache.New(s.blobs, s.blobs), meta: &metadata.DB{KV: s.facts}, ballast: s.ballast}
	o.queue = &forward.Queue{Forward: forward.New(o.cache, o.meta)}
	if _, err = o.queue.Open(ctx); err != nil {
		return err
	}
	return do(o)
}

// maintain has the running pushproxy do a piece of work that it answers with
// result, or does it with the data directory where none is running.
func maintain(ctx context.Context, c Config, path string, result any, do func(*offline) error) error {
	err := overSocket(c.DataDir).order(ctx, "POST", path, result)
	if errors.Is(err, errNotRunning) {
		return stopped(ctx, c, do)
	}
	return err
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
		Short: "Check the cache, the journal and the metadata for damage",
		Long: "Check that every blob of the cache is there, read as many of them as --read-data says against their\n" +
			"digests, and check every record of the metadata: grants, sources, presence, manifests, tags, sessions and\n" +
			"the journal of queued pushes. A damaged blob is set aside: the next push of it brings it again. A damaged\n" +
			"record is dropped: what it knew is learned anew, and who lost the grant of a blob pushes it again. A\n" +
			"damaged job stays until pushproxy queue drop. The exit status is 1 when anything was damaged.",
		Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, config Config, _ []string) error {
			percent, err := percentage(readData)
			if err != nil {
				return err
			}
			var r checked
			err = maintain(cmd.Context(), config, fmt.Sprintf("/v1/fsck?read-data=%g", percent), &r, func(o *offline) (err error) {
				r, err = checkStores(cmd.Context(), o.cache, o.meta, percent)
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				r.print(cmd)
			}
			if err == nil && len(r.Damaged)+len(r.Metadata.Dropped)+len(r.Metadata.Kept) > 0 {
				return errReported
			}
			return err
		}),
	}
	c.Flags().StringVar(&readData, "read-data", "100%", "which `percentage` of the blobs is read, chosen by chance")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// print says what was found, and on standard error what was damaged.
func (r *checked) print(cmd *cobra.Command) {
	cmd.Printf("%d blobs, %d of them read (%s), %d damaged and set aside\n", r.Blobs, r.Read, status.Bytes(r.Bytes), len(r.Damaged))
	records := len(r.Metadata.Dropped) + len(r.Metadata.Kept)
	for _, n := range r.Metadata.Records {
		records += n
	}
	cmd.Printf("%d records, %d damaged and dropped, %d jobs that cannot be read\n", records, len(r.Metadata.Dropped), len(r.Metadata.Kept))
	for _, d := range r.Damaged {
		cmd.PrintErrln("damaged:", d)
	}
	for _, key := range r.Metadata.Dropped {
		cmd.PrintErrln("dropped:", key)
	}
	for _, what := range r.Metadata.Kept {
		cmd.PrintErrln("damaged:", what)
	}
}

// warnDamaged says which jobs of the journal cannot be read: each is a promise.
func warnDamaged(log *slog.Logger, damaged []string) {
	for _, what := range damaged {
		log.Error("a queued push is damaged; push that image again", "error", what)
	}
}
