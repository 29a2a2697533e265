package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"

	"pushproxy/oci"
)

// BadgerOptions are the settings of OpenBadger. Zero means the default, which
// is right outside tests.
type BadgerOptions struct {
	// Floor is the free space in bytes below which nothing more is stored;
	// default 512 MiB, or 2 ValueLogFileSize + 4 MemTableSize if that is more.
	Floor int64
	// ValueLogFileSize is where a file of chunks ends, in bytes; default
	// 256 MiB. After a crash the last file is read again.
	ValueLogFileSize int64
	// MemTableSize is the bytes of keys and records kept in memory before they
	// become a table; default 16 MiB.
	MemTableSize int64
}

// Close ends the store's use of the directory, after the calls under way. Calls
// that come later fail. On a disk too full for badger's last table it gives up
// with ErrFull; the next OpenBadger finds everything in the logs.
func (s *Badger) Close() error {
	s.reclaim.Lock()
	defer s.reclaim.Unlock()
	s.gate.Lock()
	defer s.gate.Unlock()
	s.use.Lock()
	defer s.use.Unlock()
	return s.full(s.disk.Close(func() error { return oci.Guarded(s.db.Close) }))
}

// PutChunk implements Bodies.
func (s *Badger) PutChunk(ctx context.Context, upload string, n int, p []byte) error {
	_, err := s.PutAndSwap(ctx, upload, n, p)
	return err
}

// PutAndSwap implements Joint: in one transaction.
func (s *Badger) PutAndSwap(ctx context.Context, upload string, n int, p []byte, changes ...Change) (bool, error) {
	if err := checkChunk(upload, n, p); err != nil {
		return false, err
	}
	return s.apply(ctx, chunkKey(upload, n), p, changes)
}

// forgetChunk deletes one chunk.
func (s *Badger) forgetChunk(upload string, n int) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.disk.Ready(0, false); err != nil {
		return s.full(err)
	}
	return s.write(nil, nil, []Change{{Key: string(chunkKey(upload, n)), Old: []byte("whatever it is")}})
}

// Barrier implements Bodies. It makes everything stored durable, whichever the
// upload: badger's files are shared.
func (s *Badger) Barrier(ctx context.Context, _ ...string) error {
	if err := errors.Join(ctx.Err(), s.failed()); err != nil {
		return err
	}
	s.use.RLock()
	defer s.use.RUnlock()
	if s.db.IsClosed() {
		return errors.New("barrier: the store is closed")
	}
	// badger's Sync covers only the newest log and memtable.
	err := errors.Join(s.db.Sync(), s.files.sync())
	if err == nil {
		err = s.disk.Watch.Alive()
	}
	if err != nil {
		s.disk.Watch.Fail(err)
	}
	return s.failed()
}

// Uploads implements Bodies.
func (s *Badger) Uploads(ctx context.Context) iter.Seq2[string, error] {
	return paged(ctx, chunkPrefix, s.uploads, afterUpload)
}

func chunkKey(upload string, n int) []byte {
	key := make([]byte, 0, len(chunkPrefix)+2*idSize+9)
	return appendChunkName(append(key, chunkPrefix...), upload, n)
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

// read returns a value in buf's memory where it fits, nil if there is none, and
// ErrDamaged if there is one that cannot be read.
func (s *Badger) read(key, buf []byte) (value []byte, err error) {
	err = s.view(key, func(v []byte) {
		value = nil
		if v != nil {
			value = append(buf[:0], v...)
		}
	})
	return value, err
}

// Swap implements Index.
func (s *Badger) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	return s.SwapAll(ctx, Change{key, old, new})
}

// SwapAll implements Index.
func (s *Badger) SwapAll(ctx context.Context, changes ...Change) (bool, error) {
	return s.apply(ctx, nil, nil, changes)
}

// apply stores the chunk, unless key is nil, and makes the changes, if all
// records are what they say.
func (s *Badger) apply(ctx context.Context, key, chunk []byte, changes []Change) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	size, grows, dirty := int64(len(chunk)), len(chunk) > 0, key != nil
	for _, change := range changes {
		size += int64(len(change.New))
		grows = grows || len(change.New) > len(change.Old)
		dirty = dirty || len(change.New) > 0 || len(change.Old) > 0
	}
	if grows {
		if err := s.disk.Space.Take(size); err != nil {
			return false, s.full(err)
		}
	}
	leave, err := s.enter(chunk, changes)
	if err != nil {
		return false, s.full(err)
	}
	defer leave()
	if err := s.disk.Ready(min(size, inLog), grows); err != nil {
		return false, s.full(err)
	}
	defer s.lock(changes)()
	for _, change := range changes {
		same := false
		if err := s.view([]byte(change.Key), func(v []byte) { same = bytes.Equal(v, change.Old) }); err != nil || !same {
			return false, err
		}
	}
	if !dirty {
		return true, nil
	}
	err = s.full(s.write(key, chunk, changes))
	return err == nil, err
}

// enter holds the gate until leave, with room in the value log for what goes
// there: on a full disk it fails. The write with which a value log ends has the
// gate for itself, so that no other meets a new file without room.
func (s *Badger) enter(chunk []byte, changes []Change) (leave func(), err error) {
	var bytes int64
	entries := 0
	count := func(p []byte) {
		if len(p) >= inLog {
			bytes += int64(len(p))
			entries++
		}
	}
	count(chunk)
	for _, change := range changes {
		count(change.New)
	}
	if entries == 0 {
		s.gate.RLock()
		return s.gate.RUnlock, nil
	}
	tail := &s.disk.Tail
	if tail.Lost() {
		s.gate.Lock()
		tail.Find()
		s.gate.Unlock()
	}
	s.gate.RLock()
	last, err := tail.Reserve(bytes, entries)
	if err == nil && !last {
		return s.gate.RUnlock, nil
	}
	s.gate.RUnlock()
	if err != nil {
		return nil, err
	}
	s.gate.Lock()
	tail.Find()
	if _, err := tail.Reserve(bytes, entries); err != nil {
		s.gate.Unlock()
		return nil, err
	}
	return func() {
		tail.Forget()
		s.gate.Unlock()
	}, nil
}

// lock takes the changes' keys for the caller alone, until it calls unlock.
func (s *Badger) lock(changes []Change) (unlock func()) {
	var stripes [len(s.swaps)]bool
	for _, change := range changes {
		stripes[maphash.String(s.seed, change.Key)%uint64(len(stripes))] = true
	}
	// In the order of their numbers, so that no two wait for each other.
	for i, wanted := range stripes {
		if wanted {
			s.swaps[i].Lock()
		}
	}
	return func() {
		for i, wanted := range stripes {
			if wanted {
				s.swaps[i].Unlock()
			}
		}
	}
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
		return s.write(nil, nil, []Change{{Key: formatKey, New: []byte(formatVersion)}})
	}
	if string(got) != formatVersion {
		return fmt.Errorf("cache %s has format %q, this version knows %q: use the version that wrote it, or another directory", s.disk.Space.Dir, got, formatVersion)
	}
	return nil
}
