package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pushproxy/authinject"
	"pushproxy/blobcache"
	"pushproxy/disk"
	"pushproxy/metadata"
)

// stores is what data_dir holds: blobs/ and metadata/, each a database, and
// secret, which keys every fingerprint of a credential.
type stores struct {
	blobs   *blobcache.Files
	facts   *metadata.Badger
	secret  authinject.Secret
	ballast *ballast
	took    slog.Attr // to open each
}

// openStores opens data_dir, and makes it for its first use; storage says where
// the bodies of new blobs go. Nothing is left open when it fails. The log is told
// what it may not survive there.
func openStores(ctx context.Context, dir, storage string, log *slog.Logger) (_ *stores, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w; choose a directory that you can write to", err)
	}
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	warning, err := disk.FileSystem(dir)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	if warning != "" {
		log.Warn("data_dir may not keep what it should", "why", warning)
	}
	s := &stores{ballast: newBallast(dir)}
	if err := s.ballast.yield(); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	began := time.Now()
	if s.facts, err = metadata.OpenBadger(ctx, filepath.Join(dir, "metadata"), metadata.BadgerOptions{}); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	facts := time.Now()
	if s.blobs, err = blobcache.OpenFiles(filepath.Join(dir, "blobs"), blobcache.FilesOptions{InBadger: storage == "badger"}); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	s.took = slog.Group("opened", "metadata", facts.Sub(began).Round(time.Millisecond), "blobs", time.Since(facts).Round(time.Millisecond))
	if err = s.ballast.take(); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	if s.secret, err = installationSecret(filepath.Join(dir, "secret")); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	return s, nil
}

func (s *stores) close() error {
	var errs []error
	if s.blobs != nil {
		errs = append(errs, s.blobs.Close())
	}
	if s.facts != nil {
		errs = append(errs, s.facts.Close())
	}
	return errors.Join(errs...)
}

// secretBytes is the length of the installation's secret before it is written
// as hexadecimal.
const secretBytes = 32

// installationSecret reads the installation's secret, or makes one: random, and
// never derived from a credential, so that what is stored under it tells nothing
// about a password.
func installationSecret(file string) (authinject.Secret, error) {
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return newSecret(file)
	}
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s must be a regular file that only you can read: chmod 600 it, or delete it (what is known of mounts is then learned anew)", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if raw, err := hex.DecodeString(secret); err != nil || len(raw) != secretBytes {
		return "", fmt.Errorf("%s does not hold %d bytes in hexadecimal: delete it (what is known of mounts is then learned anew)", file, secretBytes)
	}
	return authinject.Secret(secret), nil
}

func newSecret(file string) (authinject.Secret, error) {
	raw := make([]byte, secretBytes)
	// It never fails (crypto/rand).
	_, _ = rand.Read(raw)
	secret := authinject.Secret(hex.EncodeToString(raw))
	return secret, writeSecret(file, secret)
}

func writeSecret(file string, secret authinject.Secret) error {
	// Renamed into place, and synced before and after: without it nobody is who
	// they were, and no queued push is sent.
	temp := file + ".new"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret.Reveal() + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, file); err != nil {
		return err
	}
	return syncDirs(filepath.Dir(file))
}

// syncDirs makes the names in a directory durable, and its own.
func syncDirs(dir string) error {
	for _, name := range []string{dir, filepath.Dir(dir)} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		// Not every file system syncs directories.
		_ = f.Sync()
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
