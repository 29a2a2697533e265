package metadata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// spare keeps blocks for what badger writes through maps of sparse files, where
// a full disk is a fault that ends the process: the memtable in use and the next
// one, whose file it makes, empty, for badger to take; the end of the manifest;
// and the end of the value log for a large value. It is the writer's alone.
type spare struct {
	dir   string
	name  string // of the next memtable; "" is not known
	owed  int64  // bytes that were written without it
	unfit bool   // the file system cannot do it
}

const (
	spareSize    = memtableSize * 5 / 4 // a memtable and a last transaction
	manifestRoom = 64 << 10
	keepSize     = 1 // FALLOC_FL_KEEP_SIZE
	seekHole     = 4
)

// ready prepares a transaction of n bytes. On a full disk small ones go on for a
// while, as far as the memtable in use surely reaches.
func (s *spare) ready(n, large int64) error {
	if s.unfit {
		return nil
	}
	err := s.next()
	if err == nil && large > 0 {
		err = s.extend(large)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		s.unfit = true
		return nil
	}
	if s.owed += n; large > 0 || s.owed > spareSize/4 {
		return ErrFull.Because(err)
	}
	return nil
}

// next makes sure that the next memtable's file is there.
func (s *spare) next() error {
	if info, err := os.Lstat(s.name); err == nil && info.Size() == 0 {
		return nil
	}
	newest := 0
	names, _ := filepath.Glob(filepath.Join(s.dir, "*.mem"))
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.mem", &n); err == nil {
			newest = max(newest, n)
		}
	}
	if newest == 0 {
		return nil
	}
	manifest := filepath.Join(s.dir, "MANIFEST")
	info, err := os.Stat(manifest)
	if err != nil {
		return err
	}
	if err := errors.Join(backFile(filepath.Join(s.dir, fmt.Sprintf("%05d.mem", newest)), 0, spareSize),
		backFile(manifest, 0, info.Size()+manifestRoom)); err != nil {
		return err
	}
	// Under its name only when it is whole, and only if badger has not come first.
	made, name := filepath.Join(s.dir, "spare"), filepath.Join(s.dir, fmt.Sprintf("%05d.mem", newest+1))
	f, err := os.OpenFile(made, os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(f.Close(), backFile(made, 0, spareSize)); err == nil {
		err = os.Link(made, name)
	}
	if err = errors.Join(err, os.Remove(made)); err == nil || errors.Is(err, fs.ErrExist) {
		s.name, s.owed = name, 0
		return nil
	}
	return err
}

// extend makes room at the end of the newest value log.
func (s *spare) extend(n int64) error {
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.vlog"))
	if len(logs) == 0 {
		return nil
	}
	f, err := os.Open(logs[len(logs)-1])
	if err != nil {
		return err
	}
	end, err := f.Seek(0, seekHole)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// What the kernel keeps as one piece in memory needs all of its blocks.
	return backFile(logs[len(logs)-1], end, n+2<<20)
}

// backFile gives n bytes of a file their blocks, and leaves its size.
func backFile(name string, from, n int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = syscall.EINTR
	for err == syscall.EINTR {
		err = syscall.Fallocate(int(f.Fd()), keepSize, from, n)
	}
	return errors.Join(err, f.Close())
}

// remove removes the spare.
func (s *spare) remove() {
	if info, err := os.Lstat(s.name); err == nil && info.Size() == 0 {
		_ = os.Remove(s.name)
	}
}

// clearSpares removes what a killed process kept ready in a database's
// directory, unless another process uses it now.
func clearSpares(dir string) {
	lock, err := os.Open(dir)
	if err != nil {
		return
	}
	defer func() { _ = lock.Close() }()
	// Badger's own lock.
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	// A process that is started at this moment may hold the directory open too.
	defer func() { _ = syscall.Flock(int(lock.Fd()), syscall.LOCK_UN) }()
	names, _ := filepath.Glob(filepath.Join(dir, "*.mem"))
	for _, name := range append(names, filepath.Join(dir, "spare")) {
		if info, err := os.Lstat(name); err == nil && info.Size() == 0 {
			_ = os.Remove(name)
		}
	}
}
