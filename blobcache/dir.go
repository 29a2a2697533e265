package blobcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pushproxy/oci"
)

// prepareDir makes sure that dir is a directory for us alone.
func prepareDir(dir string) error {
	if dir == "" {
		return errors.New("cache directory: no name given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cache directory %s cannot be created: %w; choose another data directory", dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	if uid, foreign := foreignOwner(info); foreign {
		return fmt.Errorf("cache directory %s belongs to user id %d, not to %d who runs this: choose another data directory, or run as its owner", dir, uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("cache directory %s is open to other users (mode %#o): run chmod 700 %s", dir, mode, dir)
	}
	probe, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return fmt.Errorf("cache directory %s is not writable: %w", dir, err)
	}
	growDir(dir)
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
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

// openError explains why badger did not open dir.
func openError(dir string, err error) error {
	if !strings.Contains(err.Error(), "Cannot acquire directory lock") {
		return fmt.Errorf("cache %s cannot be opened: %w; where its files are damaged, move the directory away to start with an empty cache, which loses what was not pushed on", dir, err)
	}
	who := "another process"
	if pid, readErr := os.ReadFile(filepath.Join(dir, "LOCK")); readErr == nil {
		who = "process " + strings.TrimSpace(string(pid))
	}
	return fmt.Errorf("cache %s is in use by %s: stop it, or choose another data directory", dir, who)
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

// watcher is badger's logger. It says nothing; it listens, because badger only
// logs that the disk failed under it, and goes on acknowledging.
type watcher struct {
	dir    string
	failed atomic.Pointer[error]
}

var diskFailure = regexp.MustCompile(`(?i)sync|input/output`)

// Errorf implements badger.Logger.
func (w *watcher) Errorf(format string, args ...any) {
	if line := strings.TrimSpace(fmt.Sprintf(format, args...)); diskFailure.MatchString(line) {
		w.fail(line)
	}
}

// Warningf implements badger.Logger.
func (w *watcher) Warningf(string, ...any) {}

// Infof implements badger.Logger.
func (w *watcher) Infof(string, ...any) {}

// Debugf implements badger.Logger.
func (w *watcher) Debugf(string, ...any) {}

func (w *watcher) fail(reason string) {
	err := fmt.Errorf("%w: %w", ErrFailed, oci.ErrStorageFull.With(
		"the proxy's disk failed and nothing more is stored until it is restarted; check the disk of its data directory").
		Because(fmt.Errorf("%s: %s", w.dir, reason)))
	w.failed.CompareAndSwap(nil, &err)
}

// err returns how the disk failed, nil if it did not. What a failed fsync lost
// cannot be known, so there is no way back but a new start.
func (w *watcher) err() error {
	if err := w.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fileSync syncs badger's files by name, which works with any descriptor.
type fileSync struct {
	dir    string
	mu     sync.Mutex
	sealed map[string]bool // value logs that were synced when they had ended
}

// sync returns when what is written in the value logs and memtables is durable.
// Tables and the manifest need none: badger syncs those itself.
func (f *fileSync) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	var logs, tables []string // in the order of their numbers
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".vlog":
			logs = append(logs, filepath.Join(f.dir, e.Name()))
		case ".mem":
			tables = append(tables, filepath.Join(f.dir, e.Name()))
		}
	}
	sealed := make(map[string]bool, len(logs))
	for i, name := range logs {
		if !f.sealed[name] {
			if err := syncFile(name); err != nil {
				return err
			}
		}
		sealed[name] = i < len(logs)-1 // the last one grows
	}
	f.sealed = sealed
	for _, name := range tables {
		if err := syncFile(name); err != nil {
			return err
		}
	}
	return syncFile(f.dir)
}

// syncFile syncs a file, if it is still there: badger removes one only after its
// content is elsewhere and synced.
func syncFile(name string) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

func orDefault(v, standard int64) int64 {
	if v == 0 {
		return standard
	}
	return v
}
