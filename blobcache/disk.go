package blobcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"pushproxy/disk"
	"pushproxy/oci"
)

// Disk says how a store on a disk fares. Its sizes are of space that is really
// taken, in bytes.
type Disk struct {
	Free   int64 // in the file system
	Floor  int64 // of that nothing is stored into
	Tables int64 // badger's keys and small records
	Log    int64 // badger's values, and what is not a table yet
	Files  int64 // bodies in files of their own
	Failed error // why nothing is stored until the next start; nil: nothing failed
}

// ReadOnly says why nothing more is stored; empty: it is.
func (d Disk) ReadOnly() string {
	switch {
	case d.Failed != nil:
		return "the disk failed; restart pushproxy when it is well"
	case d.Free < d.Floor:
		return "the disk is full; free some space there"
	}
	return ""
}

// tally is what happened since the start.
type tally struct {
	stored, storedBytes atomic.Int64 // blobs that were not here before
	evicted, freed      atomic.Int64 // blobs, bytes that Collect removed
	damaged             atomic.Int64 // blobs that were set aside
}

// Disk says how the store's disk fares. It looks at every file, a few
// milliseconds per thousand.
func (s *Badger) Disk() (Disk, error) {
	dir := s.disk.Space.Dir
	d := Disk{Floor: s.disk.Space.Floor, Failed: s.failed()}
	var err error
	if d.Free, err = disk.Free(dir); err != nil {
		return d, err
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		switch size := disk.Allocated(info); {
		case filepath.Dir(path) != dir:
			d.Files += size
		case filepath.Ext(path) == ".sst":
			d.Tables += size
		default:
			d.Log += size
		}
		return nil
	})
	return d, err
}

// ignoreGone passes over what was removed while it was looked for.
func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// openError explains why badger did not open dir.
func openError(dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cache %s cannot be opened: %w; where its files are damaged, move the directory away to start with an empty cache, which loses what was not pushed on", dir, err)
}

// failed returns ErrFailed if the disk failed under badger.
func (s *Badger) failed() error {
	err := s.disk.Watch.Err()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrFailed, oci.ErrStorageFull.With(
		"the proxy's disk failed and nothing more is stored until it is restarted; check the disk of its data directory").Because(err))
}

// full makes ErrFull of the error of a disk without space.
func full(space *disk.Space, err error) error {
	var f *disk.FullError
	if errors.Is(err, ErrFull) || !errors.As(space.Explain(err), &f) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrFull, oci.ErrStorageFull.With("the proxy's disk is full: %s, then push again", f).Because(f.Err))
}

// full makes ErrFull of the error of a disk without space.
func (s *Badger) full(err error) error { return full(&s.disk.Space, err) }

// astray makes ErrDamaged of a panic.
func astray(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: reading it is a panic of type %T", ErrDamaged, r)
	}
}
