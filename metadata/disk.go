package metadata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pushproxy/oci"
)

// prepareDir makes dir, for its owner only, or checks that the one that is
// there is ours alone and writable. What lies in it says who pushes what.
func prepareDir(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("the metadata directory cannot be made; choose another data_dir: %w", err)
		}
		growDir(dir)
		return syncDir(filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("the metadata directory cannot be read; choose another data_dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory; choose another data_dir", dir)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d and pushproxy runs as user %d; run it as that user or choose another data_dir", dir, st.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to other users (mode %04o); run: chmod 700 %s", dir, mode, dir)
	}
	probe, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return fmt.Errorf("the metadata directory is not writable; choose another data_dir: %w", err)
	}
	err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	if err != nil {
		return fmt.Errorf("the metadata directory is not writable; choose another data_dir: %w", err)
	}
	growDir(dir)
	return nil
}

// growDir makes a directory have room for more names than badger ever has there,
// which stays when they are gone: a table that cannot be made on a full disk for
// lack of its name's block is lost in a compaction, without an error.
func growDir(dir string) {
	if info, err := os.Stat(dir); err != nil || info.Size() >= 16<<10 {
		return
	}
	first := filepath.Join(dir, ".grow")
	if err := os.WriteFile(first, nil, 0o600); err != nil {
		return
	}
	names := []string{first}
	for i := range 300 {
		name := fmt.Sprintf("%s-%0100d", first, i)
		if os.Link(first, name) != nil {
			break
		}
		names = append(names, name)
	}
	for _, name := range names {
		_ = os.Remove(name)
	}
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lockHolder says which process has badger's lock on dir.
func lockHolder(dir string) string {
	pid, err := os.ReadFile(filepath.Join(dir, "LOCK"))
	if err != nil || len(pid) == 0 {
		return "another process"
	}
	return "process " + strings.TrimSpace(string(pid))
}

// space watches the free space of a directory's file system, because badger's
// memory-mapped writes kill the process where there is none left (trust B7).
type space struct {
	dir   string
	floor int64 // bytes that have to stay free; none when negative

	mu      sync.Mutex
	free    int64 // as last measured, less what was written since
	checked time.Time
}

// spaceInterval is how long one measurement counts.
const spaceInterval = 100 * time.Millisecond

// take announces n bytes to be written. It is ErrFull when fewer than the floor
// would stay free.
func (s *space) take(n int64) error {
	if s.floor < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.checked.IsZero() || now.Sub(s.checked) >= spaceInterval {
		free, err := freeSpace(s.dir)
		if err != nil {
			return err
		}
		s.free, s.checked = free, now
	}
	if s.free-n < s.floor {
		return fullError(s.dir, s.free, s.floor)
	}
	s.free -= n
	return nil
}

// openFloor is what opening a database may write by itself, in bytes.
const openFloor = 64 << 20

// roomToOpen is ErrFull when dir's file system has too little space for opening
// a database whose floor is floor.
func roomToOpen(dir string, floor int64) error {
	need := min(floor, openFloor)
	if need <= 0 {
		return nil
	}
	free, err := freeSpace(dir)
	if err == nil && free < need {
		err = fullError(dir, free, need)
	}
	return err
}

// freeSpace returns the bytes that this user may still write to dir's file
// system.
func freeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(uint64(st.Bavail) * uint64(st.Bsize)), nil
}

// fullError is ErrFull with the numbers and the remedy.
func fullError(dir string, free, floor int64) error {
	return ErrFull.With("the disk that holds %s has %d MiB free and pushproxy keeps %d MiB; make room or move data_dir", dir, free>>20, floor>>20)
}

// unborn reports whether badger did not open a directory over a memtable that a
// process was killed over before it had a size. Badger has given it one by now:
// the next attempt finds it empty, and removes it.
func unborn(err error) bool {
	return err != nil && strings.Contains(err.Error(), "opening memtables") && strings.Contains(err.Error(), "Create a new file")
}

// lockWait is how long a directory may stay locked by whoever has left it: a
// process that was started at that moment holds the lock until it has begun.
const lockWait = time.Second

// again reports whether badger may open a directory at another attempt.
func again(err error, began time.Time) bool {
	if err == nil || time.Since(began) > lockWait {
		return false
	}
	if strings.Contains(err.Error(), "Cannot acquire directory lock") {
		<-time.After(10 * time.Millisecond)
		return true
	}
	return unborn(err)
}

// watcher is badger's logger. It prints nothing, and remembers errors that mean
// that acknowledged writes may not be on the disk. A table for which there is no
// room is none: badger tries again, and the log is there.
type watcher struct{ failed atomic.Pointer[string] }

var diskTrouble = regexp.MustCompile(`(?i)sync|input/output`)

// err returns what failed, after which nothing may be acknowledged any more:
// the pages that an fsync could not write are gone without a second error.
func (w *watcher) err(dir string) error {
	if what := w.failed.Load(); what != nil {
		return fmt.Errorf("the metadata in %s could not be written to the disk; check the disk and start pushproxy again: %s", dir, *what)
	}
	return nil
}

func (w *watcher) Errorf(format string, args ...any) {
	if text := strings.TrimSpace(fmt.Sprintf(format, args...)); diskTrouble.MatchString(text) {
		w.failed.CompareAndSwap(nil, &text)
	}
}
func (w *watcher) Warningf(string, ...any) {}
func (w *watcher) Infof(string, ...any)    {}
func (w *watcher) Debugf(string, ...any)   {}

// shut closes badger's files, which badger tries for ever.
func (b *Badger) shut() error {
	closed := make(chan error, 1)
	go func() { closed <- oci.Guarded(b.db.Close) }()
	for {
		select {
		case err := <-closed:
			if err != nil {
				return fmt.Errorf("close the metadata in %s: %w", b.dir, err)
			}
			return nil
		case <-time.After(closeFor):
		}
		if err := roomToOpen(b.dir, openFloor); err != nil {
			return err
		}
	}
}
