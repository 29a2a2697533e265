package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/authinject"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/proxy"
)

// secretEvery is how often the installation's secret is looked at.
const secretEvery = time.Second

func secretCommand() *cobra.Command {
	return group(&cobra.Command{Use: "secret", Short: "Look after the installation's secret"}, &cobra.Command{
		Use:   "rotate",
		Short: "Replace the secret that keys what is known of mounts",
		Long: "Replace the secret that keys what is known of mounts, for instance since a backup of it got lost. A running\n" +
			"pushproxy takes the new one within a second. Nothing fails: where blobs can be mounted from is learned anew,\n" +
			"and queued pushes are known by the new one once their credential was seen to be the same.",
		Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			if _, err := openTokens(c); err != nil {
				return err
			}
			if err := rotate(c.DataDir); err != nil {
				return fmt.Errorf("data_dir %s: %w", c.DataDir, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the installation has a new secret")
			return nil
		}),
	})
}

// oldSecret is the file that the secret which was replaced is in until what is
// queued has been moved to the new one.
const oldSecret = "secret.old"

// rotate replaces the secret in a data directory. The one before is kept beside
// it for as long as queued pushes are known by it; where there is one already, it
// is that one.
func rotate(dir string) error {
	file, old := filepath.Join(dir, "secret"), filepath.Join(dir, oldSecret)
	if _, err := os.Lstat(old); errors.Is(err, fs.ErrNotExist) {
		before, err := installationSecret(file)
		if err != nil {
			return err
		}
		if err := writeSecret(old, before); err != nil {
			return err
		}
	}
	_, err := newSecret(file)
	return err
}

// rotatingSecret is the installation's secret while the program runs.
type rotatingSecret struct {
	file  string
	queue *forward.Queue
	now   atomic.Pointer[authinject.Secret]
	// before are those that were replaced and that queued pushes may be known by.
	before atomic.Pointer[[]authinject.Secret]
}

func newRotatingSecret(dir string, secret authinject.Secret, queue *forward.Queue) *rotatingSecret {
	r := &rotatingSecret{file: filepath.Join(dir, "secret"), queue: queue}
	r.now.Store(&secret)
	r.before.Store(&[]authinject.Secret{})
	if old := filepath.Join(dir, oldSecret); exists(old) {
		// One that cannot be read is of no use to anybody.
		if before, err := installationSecret(old); err == nil {
			r.before.Store(&[]authinject.Secret{before})
		}
	}
	return r
}

// former returns the secrets that were replaced and may still be needed.
func (r *rotatingSecret) former() []authinject.Secret { return *r.before.Load() }

// move gives what is queued its owners under the present secret, and then
// forgets the earlier ones.
func (r *rotatingSecret) move(ctx context.Context, log *slog.Logger) {
	if len(r.former()) == 0 {
		return
	}
	if undecided := r.queue.Rekey(ctx); undecided > 0 || ctx.Err() != nil {
		return
	}
	if err := os.Remove(filepath.Join(filepath.Dir(r.file), oldSecret)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the secret that was replaced cannot be removed; delete it", "error", err)
	}
	r.before.Store(&[]authinject.Secret{})
}

// get returns the secret of this moment.
func (r *rotatingSecret) get() authinject.Secret { return *r.now.Load() }

// watch takes over a new secret when there is one, until ctx ends.
func (r *rotatingSecret) watch(ctx context.Context, meta *metadata.DB, log *slog.Logger) {
	r.settle(ctx, meta, log)
	r.move(ctx, log)
	tick := time.NewTicker(secretEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		secret, err := installationSecret(r.file)
		if err == nil && secret != r.get() {
			before := append(slices.Clone(r.former()), r.get())
			r.before.Store(&before)
			r.now.Store(&secret)
			r.settle(ctx, meta, log)
		}
		// Of one that cannot be read the next start says what is wrong with it.
		r.move(ctx, log)
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

// formerly returns the owners that the present credential had under secrets that
// were replaced.
func (u *upstreams) formerly(ctx context.Context, principal string, repo oci.Repo) (owners []metadata.Owner, err error) {
	if u.former == nil || len(u.former()) == 0 {
		return nil, nil
	}
	r, err := u.reach(principal, repo.Host, u.source(proxy.CallerFrom(ctx), principal, repo.Host))
	if err != nil {
		return nil, err
	}
	c, err := r.transport.Credential(ctx, repo)
	if err != nil {
		return nil, err
	}
	for _, secret := range u.former() {
		owners = append(owners, metadata.Owner(authinject.Owner(secret, principal, r.transport.Host, c)))
	}
	return owners, nil
}
