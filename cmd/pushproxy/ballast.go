package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// ballastSize is what the ballast takes of the disk, in bytes: enough to open
	// both databases and to collect with it.
	ballastSize = 192 << 20
	// ballastNeeds is how much has to be free for the ballast to be kept at a
	// start, ballastRoom what stays free when it is taken, and ballastSpare when
	// what was given up is taken back.
	ballastNeeds = 160 << 20
	ballastRoom  = 1 << 30
	ballastSpare = 16 << 20
	ballastStep  = 1 << 20
	ballastEvery = time.Second
)

// ballast is a file that is of no use but its size: a database cannot be opened
// on a full disk, and without it nothing could be removed from it either.
type ballast struct {
	file string
	mu   sync.Mutex
	owed int64 // its size before it was given up
}

func newBallast(dir string) *ballast { return &ballast{file: filepath.Join(dir, "ballast")} }

// yield gives the space back when the disk is too full to start.
func (b *ballast) yield() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.remove()
}

// lend gives the space back, if the disk is too full, while do runs.
func (b *ballast) lend(do func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.remove(); err != nil {
		return err
	}
	return errors.Join(do(), b.restore())
}

func (b *ballast) remove() error {
	free, err := diskFree(filepath.Dir(b.file))
	if err != nil || free >= ballastNeeds {
		return err
	}
	if b.owed, err = b.size(); err != nil || b.owed == 0 {
		return err
	}
	return os.Remove(b.file)
}

// run takes the space when there is plenty, until ctx ends.
func (b *ballast) run(ctx context.Context, log *slog.Logger) {
	for {
		if err := b.take(); err != nil {
			log.Debug("no ballast", "error", err)
		}
		select {
		case <-time.After(ballastEvery):
		case <-ctx.Done():
			return
		}
	}
}

// take takes all of the space when there is plenty, and otherwise back what was
// given up, as far as there is room: the next start needs it too.
func (b *ballast) take() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.restore()
}

func (b *ballast) restore() error {
	size, err := b.size()
	if err != nil || size >= ballastSize {
		return err
	}
	free, err := diskFree(filepath.Dir(b.file))
	if err != nil {
		return err
	}
	want := int64(ballastSize)
	if free < ballastRoom+want-size {
		want = min(b.owed, size+free-ballastSpare)
	}
	if want < size+ballastStep {
		return nil
	}
	f, err := os.OpenFile(b.file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(allocate(f, want), f.Close())
}

func (b *ballast) size() (int64, error) {
	info, err := os.Lstat(b.file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
