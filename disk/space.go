package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"sync"
	"syscall"
	"time"
)

// freshFor is how long what the file system said about its free space holds.
const freshFor = 100 * time.Millisecond

// FullError is the error of what is not written because the disk is full, or
// would be.
type FullError struct {
	Dir  string
	Free int64 // bytes in the file system
	Need int64 // bytes that must be free; 0: not known, a write failed
	Err  error // the write's error, if one failed
}

// Error says how much is free and how much has to be, and what to do.
func (e *FullError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("nothing more could be written to %s; free some space there", e.Dir)
	}
	return fmt.Sprintf("%s has %d MiB free and %d MiB must stay free; free some space there", e.Dir, e.Free>>20, e.Need>>20)
}

// Unwrap returns the error of the write that failed, if one did.
func (e *FullError) Unwrap() error { return e.Err }

// Space keeps a file system from filling up.
type Space struct {
	Dir   string // a directory in it
	Floor int64  // bytes that stay free; negative: none have to

	mu    sync.Mutex
	asked time.Time
	free  int64 // when asked, less what was taken since
}

// Take announces n bytes to be written. It is a *FullError if they would leave
// less free than the floor. What others write meanwhile may be a tenth of a
// second old.
func (s *Space) Take(n int64) error {
	if s.Floor < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// An answer is asked for again before anything is refused on its account.
	if now := time.Now(); s.free-n < s.Floor || now.Sub(s.asked) > freshFor {
		free, err := Free(s.Dir)
		if err != nil {
			return err
		}
		s.free, s.asked = free, now
	}
	if s.free-n < s.Floor {
		return &FullError{Dir: s.Dir, Free: s.free, Need: s.Floor + min(n, math.MaxInt64-s.Floor)}
	}
	s.free -= n
	return nil
}

// Explain makes a *FullError of the error of a file that could not grow, and
// leaves all others.
func (s *Space) Explain(err error) error {
	var full *FullError
	// Badger keeps only the text of an error.
	if err == nil || errors.As(err, &full) || !noSpace(err) && !strings.Contains(err.Error(), "no space left on device") {
		return err
	}
	return &FullError{Dir: s.Dir, Err: err}
}

// noSpace reports whether a file could not grow.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// Free returns the bytes that an ordinary user may still store in dir's file
// system.
func Free(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(min(uint64(s.Bavail)*uint64(s.Bsize), math.MaxInt64/2)), nil
}

// Allocated returns the bytes that a file takes of its disk: badger's are mostly
// holes.
func Allocated(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}
