package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

const (
	// ballastSize is what the ballast takes of the disk, in bytes: enough to open
	// both databases and to collect with it.
	ballastSize = 192 << 20
	// ballastNeeds is how much has to be free for the ballast to be given up at a
	// start, and ballastRoom for it to be taken again.
	ballastNeeds = 160 << 20
	ballastRoom  = 2 << 30
	ballastEvery = time.Minute
)

// ballast is a file that is of no use but its size: a database cannot be opened
// on a full disk, and without it nothing could be removed from it either.
type ballast struct{ file string }

func newBallast(dir string) *ballast { return &ballast{file: filepath.Join(dir, "ballast")} }

// yield gives the space back when the disk is too full to start.
func (b *ballast) yield() error {
	free, err := diskFree(filepath.Dir(b.file))
	if err != nil || free >= ballastNeeds {
		return err
	}
	if err := os.Remove(b.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

func (b *ballast) take() error {
	if _, err := os.Stat(b.file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	free, err := diskFree(filepath.Dir(b.file))
	if err != nil || free < ballastRoom+ballastSize {
		return err
	}
	f, err := os.OpenFile(b.file+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(allocate(f, ballastSize), f.Close()); err != nil {
		return errors.Join(err, os.Remove(b.file+".new"))
	}
	return os.Rename(b.file+".new", b.file)
}
