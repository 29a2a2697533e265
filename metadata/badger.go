package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"

	"pushproxy/disk"
	"pushproxy/oci"
)

const (
	// defaultFloor covers what badger may write before it can refuse: two
	// memtables and their tables, a value log, one compaction.
	defaultFloor = 256 << 20
	memtableSize = 16 << 20
	logSize      = 64 << 20
	largeValue   = 1 << 20 // bytes from which on a value goes to the value log
	// A page is what Scan reads in one transaction: a transaction held open
	// while the caller works would keep old versions alive.
	pageEntries = 256
	pageBytes   = 1 << 20
	// Reads take the newest version there is. Badger's own timestamps would make
	// each read wait for the fsync that happens to be under way.
	latest = math.MaxUint64
)

// BadgerOptions are the choices of OpenBadger; the zero value is good.
type BadgerOptions struct {
	// Floor is how many bytes have to stay free on the disk: below, a Swap that
	// adds data is ErrFull. 0 means 256 MiB; negative means no floor, which on
	// a full disk ends the process.
	Floor int64
}

// Badger is a KV in a directory of its own, for one process. Every change is
// fsynced before Swap returns. Changes that arrive together share one fsync:
// badger itself would do one for each.
type Badger struct {
	db   *badger.DB
	disk *disk.Dir

	life   sync.RWMutex // held for reading by every use, for writing by Close
	closed bool
	swaps  chan *swap
	done   chan struct{} // closed when the writer has ended

	version uint64 // of the last commit; the writer's alone
}

// OpenBadger opens the database in dir and makes it where it is missing. Errors
// say who holds or owns dir and what to do. With too little free space to open
// safely the error is ErrFull.
func OpenBadger(ctx context.Context, dir string, o BadgerOptions) (*Badger, error) {
	if o.Floor == 0 {
		o.Floor = defaultFloor
	}
	b := &Badger{swaps: make(chan *swap), done: make(chan struct{})}
	var err error
	b.disk, err = disk.Open(dir, disk.Sizes{Floor: o.Floor, Memtable: memtableSize, Log: logSize}, func(d *disk.Dir) error {
		settings := badgerOptions(dir, &d.Watch)
		if err = checkTables(d, settings); err == nil {
			b.db, err = badger.OpenManaged(settings)
		}
		return openError(dir, err)
	})
	if err != nil {
		return nil, full(err)
	}
	b.version = b.db.MaxVersion()
	b.db.SetDiscardTs(b.version)
	go b.write()
	if err := b.settle(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// settle makes a database that was just opened fit for use.
func (b *Badger) settle(ctx context.Context) error {
	if err := disk.Sync(b.disk.Space.Dir); err != nil {
		return fmt.Errorf("the metadata in %s: %w", b.disk.Space.Dir, err)
	}
	// Manifests of 1 MiB and more are in the value log; the space of deleted
	// ones returns here.
	for b.disk.Room(4*memtableSize) == nil && b.db.RunValueLogGC(0.5) == nil {
	}
	return checkFormat(ctx, b)
}

// badgerOptions are chosen for small records: everything below 1 MiB lies in
// the tree. Badger's own checksums are off, against trust 4.3: with them one
// flipped bit hides a block's other records without an error, or the database
// does not open (of 400 flips 318 hid jobs, and about 8 without them). The records'
// own checksums find the one that is damaged.
func badgerOptions(dir string, watch badger.Logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithLogger(watch).
		WithBypassLockGuard(true). // disk.Open locked it
		WithSyncWrites(true).
		// The writer below is alone, so there is nothing to conflict with.
		WithDetectConflicts(false).
		WithValueThreshold(largeValue).
		WithValueLogFileSize(logSize).
		WithMemTableSize(memtableSize).
		WithNumMemtables(2).
		WithNumVersionsToKeep(1).
		WithNumCompactors(2).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithChecksumVerificationMode(options.NoVerification).
		WithCompactL0OnClose(true).
		WithMetricsEnabled(false)
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

// Get implements KV.
func (b *Badger) Get(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.life.RLock()
	defer b.life.RUnlock()
	if b.closed {
		return nil, ErrClosed
	}
	if key == "" || len(key) > MaxKey {
		return nil, nil
	}
	txn := b.db.NewTransactionAt(latest, false)
	defer txn.Discard()
	return read(txn, key)
}

// read returns the value under key: nil when there is none, empty when it cannot
// be read, which badger shows by an empty value without an error (trust B9) or,
// where a damaged table leads it astray, by a panic.
func read(txn *badger.Txn, key string) (value []byte, err error) {
	defer func() {
		if recover() != nil {
			value, err = []byte{}, nil
		}
	}()
	item, err := txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return item.ValueCopy([]byte{})
}

// apply makes the swaps of a batch one after the other in one transaction.
func (b *Badger) apply(batch []*swap) error {
	if err := b.disk.Watch.Err(); err != nil {
		return err
	}
	if err := b.reserve(batch); err != nil {
		return full(err)
	}
	txn := b.db.NewTransactionAt(latest, true)
	defer txn.Discard()
	changed := false
	for _, s := range batch {
		value, err := read(txn, s.key)
		if err != nil {
			return err
		}
		if (value == nil) != (s.old == nil) || !bytes.Equal(value, s.old) {
			continue
		}
		if s.new == nil {
			err = txn.Delete([]byte(s.key))
		} else {
			err = txn.Set([]byte(s.key), s.new)
		}
		if err != nil {
			return err
		}
		s.swapped, changed = true, true
	}
	if !changed {
		return nil
	}
	b.version++
	if err := txn.CommitAt(b.version, nil); err != nil {
		return err
	}
	b.db.SetDiscardTs(b.version)
	// Badger logs a failed fsync of the value log and reports success (B12).
	return b.disk.Watch.Alive()
}

// Scan implements KV.
func (b *Badger) Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		from := prefix
		for {
			page, err := b.page(ctx, prefix, from)
			for _, entry := range page {
				if !yield(entry, nil) {
					return
				}
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
			// The next key there can be.
			from = page[len(page)-1].Key + "\x00"
		}
	}
}

// page reads some entries of a prefix, beginning at the key from; none means
// that there are no more. Badger panics where a damaged table leads it astray.
func (b *Badger) page(ctx context.Context, prefix, from string) (page []Entry, err error) {
	defer func() {
		if what := recover(); what != nil {
			err = fmt.Errorf("list %s: %w: %.200v", prefix, ErrDamaged, what)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.life.RLock()
	defer b.life.RUnlock()
	if b.closed {
		return nil, ErrClosed
	}
	txn := b.db.NewTransactionAt(latest, false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(prefix), PrefetchValues: false})
	defer it.Close()
	size := 0
	for it.Seek([]byte(from)); it.Valid() && len(page) < pageEntries && size < pageBytes; it.Next() {
		value, err := it.Item().ValueCopy([]byte{})
		if err != nil {
			return page, err
		}
		page = append(page, Entry{string(it.Item().KeyCopy(nil)), value})
		size += len(value)
	}
	return page, nil
}

// Close implements KV. It waits for changes under way. On a disk too full for
// badger's last table it gives up with ErrFull; the next OpenBadger finds all in
// the logs.
func (b *Badger) Close() error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	close(b.swaps)
	<-b.done
	if err := b.disk.Close(func() error { return oci.Guarded(b.db.Close) }); err != nil {
		return full(fmt.Errorf("close the metadata in %s: %w", b.disk.Space.Dir, err))
	}
	return nil
}
