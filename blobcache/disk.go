package blobcache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
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
	d := Disk{Floor: s.space.floor, Failed: s.watch.err()}
	var err error
	if d.Free, err = freeBytes(s.space.dir); err != nil {
		return d, err
	}
	err = filepath.WalkDir(s.space.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		switch size := allocated(info); {
		case filepath.Dir(path) != s.space.dir:
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
