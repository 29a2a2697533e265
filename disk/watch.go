package disk

import (
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
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
