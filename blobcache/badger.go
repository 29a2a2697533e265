package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	chunkPrefix   = "chunk/"
	formatKey     = "format"
	formatVersion = "1"
	pageSize      = 256 // entries per read transaction of an iteration
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

// Badger is Bodies and Index in one badger database. Make it with OpenBadger.
type Badger struct {
	db    *badger.DB
	space space
	watch *watcher
	seed  maphash.Seed
	swaps [64]sync.Mutex // by key: Swap reads and writes one key undisturbed

	// gate is held by writers, and against them by Drop's steps: badger fails
	// the writes that meet its DropPrefix.
	gate    sync.RWMutex
	reclaim sync.Mutex   // one Drop at a time
	use     sync.RWMutex // held by whoever reads or syncs, against them by Close
	files   fileSync
}

// OpenBadger opens the store in dir, which it creates with mode 0700 if it is
// not there. It refuses a directory that others may read, that another user
// owns or another process uses, and one on a disk too full to open it safely.
func OpenBadger(dir string, o BadgerOptions) (*Badger, error) {
	o.ValueLogFileSize = orDefault(o.ValueLogFileSize, 256<<20)
	o.MemTableSize = orDefault(o.MemTableSize, 16<<20)
	o.Floor = orDefault(o.Floor, max(512<<20, 2*o.ValueLogFileSize+4*o.MemTableSize))
	if err := prepareDir(dir); err != nil {
		return nil, err
	}
	s := &Badger{space: space{dir: dir, floor: o.Floor}, watch: &watcher{dir: dir}, seed: maphash.MakeSeed(), files: fileSync{dir: dir}}
	// Opening replays and flushes memtables; on a full disk that is a SIGBUS.
	if err := (&space{dir: dir, floor: 0}).admit(min(4*o.MemTableSize, o.Floor)); err != nil {
		return nil, err
	}
	db, err := badger.Open(settings(dir, o, s.watch))
	if unborn(err) {
		db, err = badger.Open(settings(dir, o, s.watch))
	}
	if err != nil {
		return nil, openError(dir, err)
	}
	s.db = db
	if err := s.checkFormat(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// settings are badger's options, each chosen by measurement.
func settings(dir string, o BadgerOptions, log badger.Logger) badger.Options {
	b := badger.DefaultOptions(dir).WithLogger(log)
	b.ValueThreshold = 64 << 10 // chunks to the value log: in the LSM they cost GiBs of memory
	b.ValueLogFileSize = o.ValueLogFileSize
	b.MemTableSize = o.MemTableSize
	b.NumMemtables = 2
	b.NumCompactors = 2
	b.Compression = options.None
	b.BlockCacheSize = 0
	b.MetricsEnabled = false // it would register expvars
	b.DetectConflicts = false
	b.CompactL0OnClose = true // without it the space of deleted values never returns
	b.SyncWrites = false
	// Badger's own check comes before it parses a value, so damage can neither
	// make it panic nor keep a file locked; a damaged block is a missing key.
	b.VerifyValueChecksum = true
	b.ChecksumVerificationMode = options.OnBlockRead
	return b
}

// Drop implements Bodies. Writers wait while the chunks are dropped and while a
// file is rewritten, at most half of ValueLogFileSize, with a break after each.
func (s *Badger) Drop(ctx context.Context, uploads ...string) error {
	if err := errors.Join(ctx.Err(), s.watch.err()); err != nil || len(uploads) == 0 {
		return err
	}
	prefixes := make([][]byte, len(uploads))
	for i, upload := range uploads {
		prefixes[i] = []byte(chunkPrefix + upload + "/")
	}
	s.reclaim.Lock()
	defer s.reclaim.Unlock()
	if s.db.IsClosed() {
		return badger.ErrDBClosed
	}
	s.gate.Lock()
	err := s.db.DropPrefix(prefixes...)
	s.gate.Unlock()
	if err != nil {
		return fmt.Errorf("dropping %d uploads: %w", len(uploads), err)
	}
	for ctx.Err() == nil {
		if err := s.collect(); errors.Is(err, badger.ErrNoRewrite) {
			return nil
		} else if err != nil {
			return fmt.Errorf("value log: %w", err)
		}
	}
	return ctx.Err()
}

// collect gives back one value-log file that is half garbage.
func (s *Badger) collect() error {
	// The file's live values move to the newest file, which badger does not
	// sync; an open iterator keeps the old file until Barrier has done so.
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(formatKey)})
	defer it.Close()
	// Writers wait: badger reads the newest memtable's state unlocked here, and
	// what is not overwritten meanwhile cannot come back from the old file.
	s.gate.Lock()
	err := s.db.RunValueLogGC(0.5)
	s.gate.Unlock()
	if err != nil {
		return err
	}
	return s.Barrier(context.Background())
}

// uploads returns the first uploads with chunks whose keys are at or after from.
func (s *Badger) uploads(from string) (uploads []string, err error) {
	s.use.RLock()
	defer s.use.RUnlock()
	err = s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(chunkPrefix)})
		defer it.Close()
		for it.Seek([]byte(from)); it.Valid() && len(uploads) < pageSize; {
			upload, _, _ := strings.Cut(strings.TrimPrefix(string(it.Item().Key()), chunkPrefix), "/")
			uploads = append(uploads, upload)
			it.Seek([]byte(afterUpload(upload)))
		}
		return nil
	})
	return uploads, err
}

// entries returns the first entries of prefix whose keys are at or after from.
func (s *Badger) entries(prefix, from string) (entries []Entry, err error) {
	s.use.RLock()
	defer s.use.RUnlock()
	err = s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(prefix)})
		defer it.Close()
		for it.Seek([]byte(from)); it.Valid() && len(entries) < pageSize; it.Next() {
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			entries = append(entries, Entry{Key: string(it.Item().Key()), Value: value})
		}
		return nil
	})
	return entries, err
}

// write stores a value, or deletes it if it is empty, in a transaction of its
// own: a larger one would hold all its values in memory.
func (s *Badger) write(key, value []byte) error {
	if err := s.watch.err(); err != nil {
		return err
	}
	err := s.db.Update(func(txn *badger.Txn) error {
		if len(value) == 0 {
			return txn.Delete(key)
		}
		return txn.Set(key, value)
	})
	return errors.Join(err, s.watch.err())
}

// read returns a value in buf's memory where it fits, nil if there is none, and
// ErrDamaged if there is one that cannot be read.
func (s *Badger) read(key, buf []byte) (value []byte, err error) {
	s.use.RLock()
	defer s.use.RUnlock()
	// Badger returns nothing, and no error, for a value it cannot read. One
	// whose file was collected just now is found by the second try.
	for range 3 {
		value, err = s.readOnce(key, buf)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil, nil
		}
		if err != nil || len(value) > 0 {
			return value, err
		}
	}
	return nil, fmt.Errorf("%s: unreadable: %w", key, ErrDamaged)
}

func (s *Badger) readOnce(key, buf []byte) (value []byte, err error) {
	// A bad sector under badger's memory map is a fault, which ends the
	// process unless it is asked to be a panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if _, fault := r.(interface{ Addr() uintptr }); fault {
			value, err = nil, fmt.Errorf("%s: %v: %w", key, r, ErrDamaged)
		} else if r != nil {
			panic(r)
		}
	}()
	err = s.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			value = append(buf[:0], v...)
			return nil
		})
	})
	return value, err
}
