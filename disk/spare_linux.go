package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// spare keeps the file of badger's next memtable ready, empty and with its
// blocks. Badger writes its memtables' logs through maps of sparse files, where
// a full disk is a fault that ends the process, and cannot go on without a
// memtable; a file of that name it takes as it is. The manifest gets blocks
// behind its end too: half an entry would be its last.
type spare struct {
	dir  string
	size int64 // what a memtable may write

	name  atomic.Pointer[string] // the spare; nil: look for it
	mu    sync.Mutex
	since atomic.Int64 // bytes that were written without a spare
	unfit atomic.Bool  // the file system cannot do it
}

const (
	manifestRoom = 64 << 10
	keepSize     = 1 // FALLOC_FL_KEEP_SIZE
)

// ready makes sure that there is a spare before n bytes are written. Without
// room for one, so much may be written as the memtable in use surely takes, but
// nothing that grows.
func (s *spare) ready(n int64, grows bool) error {
	if s.unfit.Load() || s.isThere() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isThere() {
		return nil
	}
	err := s.make()
	if err == nil {
		s.since.Store(0)
		return nil
	}
	if !noSpace(err) {
		s.unfit.Store(true)
		return nil
	}
	if s.since.Add(n+entrySize) > s.size/4 || grows {
		return err
	}
	return nil
}

// isThere reports whether badger has not taken the spare yet.
func (s *spare) isThere() bool {
	name := s.name.Load()
	if name == nil {
		return false
	}
	info, err := os.Lstat(*name)
	return err == nil && info.Size() == 0
}

func (s *spare) make() error {
	newest := 0
	names, _ := filepath.Glob(filepath.Join(s.dir, "*.mem"))
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(name), "%d.mem", &n); err == nil {
			newest = max(newest, n)
		}
	}
	if newest == 0 {
		return nil // badger is making the first one
	}
	if err := s.back(fmt.Sprintf("%05d.mem", newest), s.size); err != nil {
		return err
	}
	if info, err := os.Stat(filepath.Join(s.dir, "MANIFEST")); err == nil {
		if err := s.back("MANIFEST", info.Size()+manifestRoom); err != nil {
			return err
		}
	}
	// Under its name only when it is whole, and only if badger has not come first.
	made, name := filepath.Join(s.dir, "spare"), filepath.Join(s.dir, fmt.Sprintf("%05d.mem", newest+1))
	f, err := os.OpenFile(made, os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(allocate(f, s.size), f.Close())
	if err == nil {
		err = os.Link(made, name)
	}
	if err = errors.Join(err, os.Remove(made)); err == nil || errors.Is(err, fs.ErrExist) {
		s.name.Store(&name)
		return nil
	}
	return err
}

// back gives a file blocks up to an offset.
func (s *spare) back(name string, end int64) error {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(allocate(f, end), f.Close())
}

// allocate gives a file blocks from its start, and leaves its size.
func allocate(f *os.File, n int64) error {
	for {
		if err := syscall.Fallocate(int(f.Fd()), keepSize, 0, n); err != syscall.EINTR {
			return err
		}
	}
}

// remove removes the spare, which nobody else may use.
func (s *spare) remove() {
	if name := s.name.Load(); name != nil && s.isThere() {
		_ = os.Remove(*name)
	}
}

// clear removes what a killed process kept ready; the directory is locked.
func (s *spare) clear() {
	names, _ := filepath.Glob(filepath.Join(s.dir, "*.mem"))
	for _, name := range append(names, filepath.Join(s.dir, "spare")) {
		if info, err := os.Lstat(name); err == nil && info.Size() == 0 {
			_ = os.Remove(name)
		}
	}
}
