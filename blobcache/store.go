package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
)

// Close ends the store's use of the directory, after the calls under way. Calls
// that come later fail.
func (s *Badger) Close() error {
	s.reclaim.Lock()
	defer s.reclaim.Unlock()
	s.gate.Lock()
	defer s.gate.Unlock()
	s.use.Lock()
	defer s.use.Unlock()
	return s.db.Close()
}

// PutChunk implements Bodies.
func (s *Badger) PutChunk(ctx context.Context, upload string, n int, p []byte) error {
	if err := checkChunk(upload, n, p); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.space.admit(int64(len(p))); err != nil {
		return err
	}
	return s.write([]byte(chunkPrefix+chunkName(upload, n)), p)
}

// GetChunk implements Bodies.
func (s *Badger) GetChunk(ctx context.Context, upload string, n int, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := s.read([]byte(chunkPrefix+chunkName(upload, n)), buf)
	if err == nil && p == nil {
		err = fmt.Errorf("chunk %s: %w", chunkName(upload, n), ErrUnknown)
	}
	return p, err
}

// Barrier implements Bodies. It makes everything stored durable, whichever the
// upload: badger's files are shared.
func (s *Badger) Barrier(ctx context.Context, _ ...string) error {
	if err := errors.Join(ctx.Err(), s.watch.err()); err != nil {
		return err
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if s.db.IsClosed() {
		return errors.New("barrier: the store is closed")
	}
	// badger's Sync covers only the newest log and memtable.
	if err := errors.Join(s.db.Sync(), s.files.sync()); err != nil {
		s.watch.fail(err.Error())
	}
	return s.watch.err()
}

// Uploads implements Bodies.
func (s *Badger) Uploads(ctx context.Context) iter.Seq2[string, error] {
	return paged(ctx, chunkPrefix, s.uploads, afterUpload)
}

// afterUpload is the first key behind all chunks of the upload.
func afterUpload(upload string) string { return chunkPrefix + upload + string(rune('/'+1)) }

// Get implements Index.
func (s *Badger) Get(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.read([]byte(key), nil)
}

// Swap implements Index.
func (s *Badger) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	lock := &s.swaps[maphash.String(s.seed, key)%uint64(len(s.swaps))]
	lock.Lock()
	defer lock.Unlock()
	current, err := s.read([]byte(key), nil)
	if err != nil || !bytes.Equal(current, old) {
		return false, err
	}
	if len(new) > len(old) {
		if err := s.space.admit(int64(len(new))); err != nil {
			return false, err
		}
	}
	if len(new) == 0 && len(old) == 0 {
		return true, nil
	}
	err = s.write([]byte(key), new)
	return err == nil, err
}

// Scan implements Index.
func (s *Badger) Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return paged(ctx, prefix,
		func(from string) ([]Entry, error) { return s.entries(prefix, from) },
		func(e Entry) string { return e.Key + "\x00" })
}

// paged yields what page returns from one key, then from the key after the last
// item, and so on: each page is a short transaction, whatever the caller does
// with its items.
func paged[T any](ctx context.Context, from string, page func(from string) ([]T, error), after func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for {
			items, err := page(from)
			if err = errors.Join(ctx.Err(), err); err != nil {
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if len(items) < pageSize {
				return
			}
			from = after(items[len(items)-1])
		}
	}
}

func (s *Badger) checkFormat() error {
	got, err := s.Get(context.Background(), formatKey)
	if err != nil {
		return err
	}
	if got == nil {
		return s.write([]byte(formatKey), []byte(formatVersion))
	}
	if string(got) != formatVersion {
		return fmt.Errorf("cache %s has format %q, this version knows %q: use the version that wrote it, or another directory", s.space.dir, got, formatVersion)
	}
	return nil
}
