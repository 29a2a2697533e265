package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lockWait is how long a directory may stay locked by whoever has left it: a
// process that was started at that moment holds the lock until it has begun.
const lockWait = time.Second

// lockFile says which process has the directory, as badger does itself.
const lockFile = "LOCK"

// InUseError is the error of a directory that another database has open, of this
// process or another.
type InUseError struct {
	Dir    string
	Holder string // "process 123", or "another process"
}

// Error says who has the directory, and what to do.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by %s; stop that pushproxy or choose another data_dir", e.Dir, e.Holder)
}

// lock locks dir as badger would, but before anything in it is touched.
func lock(dir string) (*os.File, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Since(began) > lockWait {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(&InUseError{Dir: dir, Holder: holder(dir)}, file.Close())
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, lockFile), fmt.Appendln(nil, os.Getpid()), 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s cannot be locked: %w", dir, err), file.Close())
	}
	return file, nil
}

// holder says which process has the lock on dir.
func holder(dir string) string {
	pid, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil || len(pid) == 0 {
		return "another process"
	}
	return "process " + strings.TrimSpace(string(pid))
}

// unlock gives the directory back. A process that is started at this moment may
// hold it open too, so closing it is not enough.
func (d *Dir) unlock() error {
	err := os.Remove(filepath.Join(d.path, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, syscall.Flock(int(d.lock.Fd()), syscall.LOCK_UN), d.lock.Close())
	d.lock = nil
	return err
}
