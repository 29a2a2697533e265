package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/authinject"
	"pushproxy/metadata"
)

// secretEvery is how often the installation's secret is looked at.
const secretEvery = time.Second

func secretCommand() *cobra.Command {
	command := &cobra.Command{Use: "secret", Short: "Look after the installation's secret"}
	command.AddCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Replace the secret that keys what is known of mounts",
		Long: "Replace the secret that keys what is known of mounts, for instance since a backup of it got lost. A running\n" +
			"pushproxy takes the new one within a second. Nothing fails: where blobs can be mounted from is learned anew.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			if _, err := openTokens(c); err != nil {
				return err
			}
			if _, err := newSecret(filepath.Join(c.DataDir, "secret")); err != nil {
				return fmt.Errorf("data_dir %s: %w", c.DataDir, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the installation has a new secret")
			return nil
		},
	})
	return command
}

// rotatingSecret is the installation's secret while the program runs.
type rotatingSecret struct {
	file string
	now  atomic.Pointer[authinject.Secret]
}

func newRotatingSecret(dir string, secret authinject.Secret) *rotatingSecret {
	r := &rotatingSecret{file: filepath.Join(dir, "secret")}
	r.now.Store(&secret)
	return r
}

// get returns the secret of this moment.
func (r *rotatingSecret) get() authinject.Secret { return *r.now.Load() }

// watch takes over a new secret when there is one, until ctx ends.
func (r *rotatingSecret) watch(ctx context.Context, meta *metadata.DB, log *slog.Logger) {
	r.settle(ctx, meta, log)
	tick := time.NewTicker(secretEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		secret, err := installationSecret(r.file)
		if err != nil || secret == r.get() {
			// The next start says what is wrong with it.
			continue
		}
		r.now.Store(&secret)
		r.settle(ctx, meta, log)
	}
}

// settle forgets what another secret has keyed.
func (r *rotatingSecret) settle(ctx context.Context, meta *metadata.DB, log *slog.Logger) {
	mac := hmac.New(sha256.New, []byte(r.get().Reveal()))
	mac.Write([]byte("pushproxy secret 1"))
	changed, err := meta.KeyedBy(ctx, hex.EncodeToString(mac.Sum(nil)))
	switch {
	case err != nil && ctx.Err() == nil:
		log.Warn("what an earlier secret has keyed could not all be forgotten; the next start tries again", "error", err)
	case changed:
		log.Info("the installation has a new secret; where blobs can be mounted from is learned anew")
	}
}
