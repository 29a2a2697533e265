// Package disk is what the directory of a badger database needs of the operating
// system: to be ours alone, to be locked, to have blocks for what badger is going
// to write, to be watched for a disk that is full or fails, and to be looked over
// before badger reads it.
//
// Badger writes through maps of sparse files and reads through maps, in goroutines
// of its own. There a block that the disk has no room for is a signal that ends
// the process, a failed fsync is a line in the log, and a damaged table is a panic.
// A Dir turns each of them into an error that comes before.
//
// It knows the names of badger's files and what its log says, and nothing else of
// badger. What is kept in a directory beside badger's files:
//
//	LOCK   the process that has the directory; the lock is on the directory itself
//	spare  the next memtable's file, until it is whole and gets its name
//	.grow… names that make the directory large, for a moment
package disk

import (
	"errors"
	"os"
	"strings"
	"time"
)

// Sizes are what a database makes of its disk, in bytes.
type Sizes struct {
	// Floor is what stays free in the file system; nothing has to if it is
	// negative.
	Floor int64
	// Memtable is what the database keeps in memory before it becomes a table.
	Memtable int64
	// Log is where a value log ends and the next one begins.
	Log int64
}

// Dir is the directory of a database that is open, or about to be. It is made by
// Open; its methods, and those of its parts, may be called at once from many
// goroutines.
type Dir struct {
	Space Space // admits what is to be written
	Watch Watch // the database's logger
	Tail  Tail  // of the newest value log

	path  string
	lock  *os.File
	spare spare
}

// closeWait is how long Close waits for the database before it looks whether the
// disk has no room for its last table.
const closeWait = 5 * time.Second

// unbornWait is how long Open goes on with memtables that have no size.
const unbornWait = time.Second

// Open prepares the directory (Prepare), locks it for this process until Close,
// and calls start, which opens the database in it, without a lock of its own.
// The error is an *InUseError, a *FullError where there is too little space to
// open a database safely, or start's.
func Open(path string, s Sizes, start func(*Dir) error) (*Dir, error) {
	if err := Prepare(path); err != nil {
		return nil, err
	}
	d := &Dir{
		Space: Space{Dir: path, Floor: s.Floor}, Watch: Watch{dir: path}, Tail: Tail{dir: path, limit: s.Log},
		path: path, spare: spare{dir: path, size: max(s.Memtable*5/4, folio)},
	}
	var err error
	if d.lock, err = lock(path); err != nil {
		return nil, err
	}
	d.spare.clear()
	// Opening replays and flushes memtables.
	if err = d.Room(min(4*s.Memtable, s.Floor)); err == nil {
		err = start(d)
	}
	for began := time.Now(); unborn(err) && time.Since(began) < unbornWait; {
		err = start(d)
	}
	if err != nil {
		return nil, errors.Join(err, d.unlock())
	}
	return d, nil
}

// unborn reports whether badger did not open a directory over a memtable that a
// process was killed over before it had a size. Badger has given it one by now:
// the next attempt finds it empty, and removes it.
func unborn(err error) bool {
	return err != nil && strings.Contains(err.Error(), "opening memtables") && strings.Contains(err.Error(), "Create a new file")
}

// MemtableFile is the most that the file of one memtable takes of the disk, in
// bytes: the memtable and a last transaction.
func (d *Dir) MemtableFile() int64 { return d.spare.size }

// Room returns a *FullError where n bytes do not fit on the disk, whatever the
// floor.
func (d *Dir) Room(n int64) error {
	if n <= 0 {
		return nil
	}
	return (&Space{Dir: d.path}).Take(n)
}

// Ready makes sure that there are blocks for all that n bytes of keys and small
// values may make badger write through maps: in the memtable in use, in the next
// one and in the manifest. On a disk without them what grows is refused, with a
// *FullError, and all else goes on as far as the memtable in use surely reaches.
func (d *Dir) Ready(n int64, grows bool) error {
	return d.Space.Explain(d.spare.ready(n, grows))
}

// Close calls shut, which closes the database, and unlocks the directory. On a
// disk that is too full for its last table badger tries for ever: then Close gives
// up with a *FullError, and leaves the directory locked until the process ends.
// The second call does nothing; it must not be made during the first.
func (d *Dir) Close(shut func() error) error {
	if d.lock == nil {
		return nil
	}
	d.Tail.Forget()
	d.spare.remove()
	closed := make(chan error, 1)
	go func() { closed <- shut() }()
	for {
		select {
		case err := <-closed:
			return errors.Join(err, d.unlock())
		case <-time.After(closeWait):
		}
		if err := d.Room(2 * d.spare.size); err != nil {
			return err
		}
	}
}
