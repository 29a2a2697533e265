package blobcache

import (
	"fmt"

	"pushproxy/oci"
)

// space keeps a disk from filling up: badger writes through memory maps, so a
// full disk is a SIGBUS that ends the process, and again at the next start.
type space struct {
	dir   string
	floor int64 // bytes that stay free
}

// admit returns ErrFull if n more bytes would leave less free than the floor.
// It asks the file system each time, a microsecond beside a write.
func (s *space) admit(n int64) error {
	free, err := freeBytes(s.dir)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	if free-n >= s.floor {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrFull, oci.ErrStorageFull.With(
		"the proxy's disk is full: %s has %d MiB free and %d MiB must stay free; free some space there, then push again",
		s.dir, free>>20, (s.floor+n)>>20))
}
