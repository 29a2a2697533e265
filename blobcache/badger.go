package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"

	"pushproxy/disk"
)

const (
	chunkPrefix   = "chunk/"
	inLog         = 4 << 10 // bytes from which on a value goes to the value log
	formatKey     = "format"
	formatVersion = "2"
	pageSize      = 256 // entries per read transaction of an iteration
)

// Badger is Bodies and Index in one badger database. Make it with OpenBadger.
//
// The database is in badger's managed mode, where we number the transactions and
// a read sees the newest: in the other, reads wait for all earlier writes.
type Badger struct {
	db      *badger.DB
	disk    *disk.Dir
	logSize int64         // where a value log ends, in bytes
	clock   atomic.Uint64 // number of the last transaction
	seed    maphash.Seed
	swaps   [64]sync.Mutex // by key: Swap reads and writes one key undisturbed

	// gate is held by writers, and against them by Drop's steps: badger fails
	// the writes that meet its DropPrefix.
	gate    sync.RWMutex
	reclaim sync.Mutex   // one Drop at a time
	use     sync.RWMutex // held by whoever reads or syncs, against them by Close and who removes a value log
	files   fileSync
}

// OpenBadger opens the store in dir, which it creates with mode 0700 if it is
// not there. It refuses a directory that others may read, that another user
// owns or another process uses, and one on a disk too full to open it safely.
func OpenBadger(dir string, o BadgerOptions) (*Badger, error) {
	o.ValueLogFileSize = orDefault(o.ValueLogFileSize, 256<<20)
	o.MemTableSize = orDefault(o.MemTableSize, 16<<20)
	o.Floor = orDefault(o.Floor, max(512<<20, 2*o.ValueLogFileSize+4*o.MemTableSize))
	s := &Badger{seed: maphash.MakeSeed(), files: fileSync{dir: dir}, logSize: o.ValueLogFileSize}
	var err error
	s.disk, err = disk.Open(dir, disk.Sizes{Floor: o.Floor, Memtable: o.MemTableSize, Log: o.ValueLogFileSize}, func(d *disk.Dir) error {
		b := settings(dir, o, &d.Watch)
		if err = checkTables(d, b); err == nil {
			s.db, err = badger.OpenManaged(b)
		}
		return openError(dir, err)
	})
	if err != nil {
		return nil, full(&disk.Space{Dir: dir}, err)
	}
	s.clock.Store(s.db.MaxVersion())
	if err := s.checkFormat(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// settings are badger's options, each chosen by measurement.
func settings(dir string, o BadgerOptions, log badger.Logger) badger.Options {
	b := badger.DefaultOptions(dir).WithLogger(log).WithBypassLockGuard(true) // disk.Open locked it
	// Small bodies too: the LSM writes them four times, and takes GiBs of memory.
	b.ValueThreshold = inLog
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

// checkTables opens badger's tables as badger does.
func checkTables(d *disk.Dir, o badger.Options) error {
	return d.CheckTables(func(manifest *os.File) (iter.Seq[uint64], error) {
		m, _, err := badger.ReplayManifestFile(manifest, o.ExternalMagicVersion, o)
		return maps.Keys(m.Tables), err
	}, func(id uint64, content []byte) error {
		t, err := table.OpenInMemoryTable(content, id, &table.Options{ChkMode: o.ChecksumVerificationMode})
		// It panics over a key that is none.
		if err == nil && y.CompareKeys(t.Smallest(), t.Biggest()) > 0 {
			err = errors.New("its keys are out of order")
		}
		return err
	})
}

// collect gives back one value-log file that is half garbage, and reports
// whether there may be another.
func (s *Badger) collect() (more bool, err error) {
	// The file's live values move to the newest file, which badger does not
	// sync; an open iterator keeps the old file until Barrier has done so, and
	// then until nobody reads a value that was found in it.
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(formatKey)})
	defer func() {
		s.use.Lock()
		defer s.use.Unlock()
		it.Close()
	}()
	// Writers wait: badger reads the newest memtable's state unlocked here, and
	// what is not overwritten meanwhile cannot come back from the old file.
	s.gate.Lock()
	if err = s.prepareMove(); err == nil {
		err = s.db.RunValueLogGC(0.5)
	}
	s.disk.Tail.Forget()
	s.gate.Unlock()
	if errors.Is(err, badger.ErrNoRewrite) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.Barrier(context.Background())
}

// look calls fn with a transaction that reads. Badger panics where a damaged table
// leads it astray; that is ErrDamaged.
func (s *Badger) look(fn func(txn *badger.Txn) error) (err error) {
	s.use.RLock()
	defer s.use.RUnlock()
	defer astray(&err)
	return s.db.View(fn)
}

// get is txn.Get, in which a panic is ErrDamaged.
func get(txn *badger.Txn, key []byte) (item *badger.Item, err error) {
	defer astray(&err)
	return txn.Get(key)
}

// uploads returns the first uploads with chunks whose keys are at or after from.
func (s *Badger) uploads(from string) (uploads []string, err error) {
	err = s.look(func(txn *badger.Txn) error {
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

// hasChunks reports whether the upload's first chunk is here, and any other.
func (s *Badger) hasChunks(upload string) (first, rest bool, err error) {
	prefix := []byte(chunkPrefix + upload + "/")
	err = s.look(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Seek(prefix); it.Valid() && !rest; it.Next() {
			isFirst := bytes.Equal(it.Item().Key(), chunkKey(upload, 0))
			first, rest = first || isFirst, rest || !isFirst
		}
		return nil
	})
	return first, rest, err
}

// entries returns the first entries of prefix whose keys are at or after from.
func (s *Badger) entries(prefix, from string) (entries []Entry, err error) {
	err = s.look(func(txn *badger.Txn) error {
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

// write stores the chunk, unless key is nil, and what the changes say, in one
// transaction; the caller has the changes' keys to itself.
func (s *Badger) write(key, chunk []byte, changes []Change) error {
	if err := s.failed(); err != nil {
		return err
	}
	if s.db.IsClosed() {
		return badger.ErrDBClosed
	}
	txn := s.db.NewTransactionAt(math.MaxUint64, true)
	defer txn.Discard()
	if key != nil {
		if err := txn.Set(key, chunk); err != nil {
			return err
		}
	}
	for _, change := range changes {
		var err error
		switch {
		case len(change.New) > 0:
			err = txn.Set([]byte(change.Key), change.New)
		case len(change.Old) > 0:
			err = txn.Delete([]byte(change.Key))
		}
		if err != nil {
			return err
		}
	}
	now := s.clock.Add(1)
	err := txn.CommitAt(now, nil)
	// No read looks back: compaction may drop whatever has been overwritten.
	s.db.SetDiscardTs(now)
	return errors.Join(err, s.failed())
}

// view shows fn the value of key, or nil if there is none. The error is ErrDamaged if there is a value that cannot
// be read.
func (s *Badger) view(key []byte, fn func(value []byte)) error {
	return s.viewItem(key, nil, fn)
}

// viewItem is view, unless read has found the value by the item itself.
func (s *Badger) viewItem(key []byte, read func(item any) bool, fn func(value []byte)) error {
	s.use.RLock()
	defer s.use.RUnlock()
	readable, err := s.viewOnce(key, read, fn)
	if err == nil && !readable {
		// Badger returns nothing, and no error, for a value it cannot read.
		err = fmt.Errorf("%s: unreadable: %w", key, ErrDamaged)
	}
	return err
}

func (s *Badger) viewOnce(key []byte, read func(item any) bool, fn func(value []byte)) (readable bool, err error) {
	// A bad sector under badger's memory map is a fault, which ends the
	// process unless it is asked to be a panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if _, fault := r.(interface{ Addr() uintptr }); fault {
			readable, err = false, fmt.Errorf("%s: %v: %w", key, r, ErrDamaged)
		} else if r != nil {
			panic(r)
		}
	}()
	if s.db.IsClosed() {
		return false, badger.ErrDBClosed
	}
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	item, err := get(txn, key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		fn(nil)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if read != nil && read(item) {
		return true, nil
	}
	err = item.Value(func(v []byte) error {
		if readable = len(v) > 0; readable {
			fn(v)
		}
		return nil
	})
	return readable, err
}
