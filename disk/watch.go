package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
)

// FailedError is the error of a disk that did not write what it was given.
type FailedError struct {
	Dir    string
	Reason string // what badger or the operating system said
}

// Error says what failed, and what to do.
func (e *FailedError) Error() string {
	return fmt.Sprintf("the disk failed under %s and nothing more is stored there until pushproxy is started again; check the disk: %s", e.Dir, e.Reason)
}

// Watch is badger's logger. It says nothing; it listens, because badger only logs
// that the disk failed under it, and goes on acknowledging. A table for which
// there is no room is no failure: badger tries again, and the log is there.
type Watch struct {
	dir    string
	failed atomic.Pointer[FailedError]
}

var diskFailure = regexp.MustCompile(`(?i)sync|input/output`)

// Err returns how the disk failed, a *FailedError, or nil if it did not. The pages
// that an fsync could not write are gone without a second error, so there is no
// way back but a new start.
func (w *Watch) Err() error {
	if failed := w.failed.Load(); failed != nil {
		return failed
	}
	return nil
}

// Fail makes Err return the reason, unless there is one.
func (w *Watch) Fail(reason error) {
	w.failed.CompareAndSwap(nil, &FailedError{Dir: w.dir, Reason: reason.Error()})
}

// Alive returns Err, or finds out that the file system has died. It is asked after
// an fsync, before what was written is acknowledged: ext4 that is shut down, or
// whose journal is aborted, while it writes forgets the blocks that it could not
// enter, and reports the fsync as done. It opens no file for writing any more.
func (w *Watch) Alive() error {
	if err := w.Err(); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(w.dir, "MANIFEST"), os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if err == nil {
		return file.Close()
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
		return fmt.Errorf("whether %s has been written to the disk cannot be asked: %w", w.dir, err)
	}
	w.Fail(err)
	return w.Err()
}

// Errorf implements badger.Logger.
func (w *Watch) Errorf(format string, args ...any) {
	if line := strings.TrimSpace(fmt.Sprintf(format, args...)); diskFailure.MatchString(line) {
		w.failed.CompareAndSwap(nil, &FailedError{Dir: w.dir, Reason: line})
	}
}

// Warningf implements badger.Logger.
func (w *Watch) Warningf(string, ...any) {}

// Infof implements badger.Logger.
func (w *Watch) Infof(string, ...any) {}

// Debugf implements badger.Logger.
func (w *Watch) Debugf(string, ...any) {}
