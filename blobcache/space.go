package blobcache

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"pushproxy/oci"
)

// freshFor is how long what the file system said about its free space holds.
const freshFor = 100 * time.Millisecond

// space keeps a disk from filling up: badger writes through memory maps, so a
// full disk is a SIGBUS that ends the process, and again at the next start.
type space struct {
	dir   string
	floor int64 // bytes that stay free

	mu    sync.Mutex
	asked time.Time
	free  int64 // when asked, less what was admitted since
}

// admit returns ErrFull if n more bytes would leave less free than the floor.
// What others store meanwhile may be a tenth of a second old.
func (s *space) admit(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// An answer is asked for again before anything is refused on its account.
	if now := time.Now(); s.free-n < s.floor || now.Sub(s.asked) > freshFor {
		free, err := freeBytes(s.dir)
		if err != nil {
			return fmt.Errorf("free space of %s: %w", s.dir, err)
		}
		s.free, s.asked = free, now
	}
	if s.free-n >= s.floor {
		s.free -= n
		return nil
	}
	return fmt.Errorf("%w: %w", ErrFull, oci.ErrStorageFull.With(
		"the proxy's disk is full: %s has %d MiB free and %d MiB must stay free; free some space there, then push again",
		s.dir, s.free>>20, (s.floor+n)>>20))
}

// explain makes ErrFull of the error of a file that could not grow.
func (s *space) explain(err error) error {
	// Badger keeps only the text of an error.
	if err == nil || errors.Is(err, ErrFull) || !noSpace(err) && !strings.Contains(err.Error(), "no space left on device") {
		return err
	}
	return fmt.Errorf("%w: %w", ErrFull, oci.ErrStorageFull.With(
		"the proxy's disk is full: nothing more could be written to %s; free some space there, then push again", s.dir).Because(err))
}
