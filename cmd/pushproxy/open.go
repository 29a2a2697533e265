package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pushproxy/authinject"
	"pushproxy/blobcache"
	"pushproxy/metadata"
)

// stores is what data_dir holds: blobs/ and metadata/, each a database, and
// secret, which keys every fingerprint of a credential.
type stores struct {
	blobs   *blobcache.Badger
	facts   *metadata.Badger
	secret  authinject.Secret
	ballast *ballast
}

// openStores opens data_dir, and makes it for its first use. Nothing is left
// open when it fails.
func openStores(ctx context.Context, dir string) (_ *stores, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w; choose a directory that you can write to", err)
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
	if s.facts, err = metadata.OpenBadger(ctx, filepath.Join(dir, "metadata"), metadata.BadgerOptions{}); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	if s.blobs, err = blobcache.OpenBadger(filepath.Join(dir, "blobs"), blobcache.BadgerOptions{}); err != nil {
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
	secret := hex.EncodeToString(raw)
	// Renamed into place, so that a crash leaves no half of it.
	temp := file + ".new"
	if err := os.WriteFile(temp, []byte(secret+"\n"), 0o600); err != nil {
		return "", err
	}
	return authinject.Secret(secret), os.Rename(temp, file)
}
