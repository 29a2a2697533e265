package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"pushproxy/disk"
)

// Drop implements Bodies.
func (s *Files) Drop(ctx context.Context, uploads ...string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	if err := s.failed(); err != nil {
		return err
	}
	var elsewhere []string
	for _, upload := range uploads {
		if _, ok := parseID(upload); !ok {
			continue
		}
		first, rest, err := s.hasChunks(upload)
		if err == nil && s.dir != "" {
			err = s.remove(upload)
		}
		if err != nil {
			return fmt.Errorf("dropping upload %s: %w", upload, err)
		}
		if first || rest {
			elsewhere = append(elsewhere, upload)
		}
	}
	return s.Badger.Drop(ctx, elsewhere...)
}

func (s *Files) remove(upload string) error {
	lock := s.lock(upload)
	lock.Lock()
	defer lock.Unlock()
	return removeBody(s.path(upload))
}

// Barrier implements Bodies. What is in badger becomes durable whosever it is.
func (s *Files) Barrier(ctx context.Context, uploads ...string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	if err := s.failed(); err != nil {
		return err
	}
	dirs := make(map[string]bool)
	for _, upload := range uploads {
		if _, ok := parseID(upload); !ok || s.dir == "" {
			continue
		}
		path := s.path(upload)
		if err := errors.Join(disk.Sync(path), disk.Sync(path+second)); err != nil {
			s.disk.Watch.Fail(err)
		}
		dirs[filepath.Dir(path)] = true
		dirs[s.dir] = true
	}
	for dir := range dirs {
		if err := disk.Sync(dir); err != nil {
			s.disk.Watch.Fail(err)
		}
	}
	return s.Badger.Barrier(ctx)
}

// Uploads implements Bodies.
func (s *Files) Uploads(ctx context.Context) iter.Seq2[string, error] {
	if s.dir == "" {
		return s.Badger.Uploads(ctx)
	}
	return func(yield func(string, error) bool) {
		for i := range 256 {
			uploads, err := s.list(ctx, fmt.Sprintf("%02x", i))
			if err != nil {
				yield("", err)
				return
			}
			for _, upload := range uploads {
				if !yield(upload, nil) {
					return
				}
			}
		}
		for upload, err := range s.Badger.Uploads(ctx) {
			if err == nil {
				if _, statErr := os.Lstat(s.path(upload)); statErr == nil {
					continue // listed above
				}
			}
			if !yield(upload, err) {
				return
			}
		}
	}
}

// list returns the uploads that have a file in one of the directories.
func (s *Files) list(ctx context.Context, dir string) (uploads []string, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	d, err := os.Open(filepath.Join(s.dir, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	for _, name := range names {
		if _, ok := parseID(name); ok && name[:2] == dir {
			uploads = append(uploads, name)
		}
	}
	return uploads, errors.Join(err, d.Close())
}
