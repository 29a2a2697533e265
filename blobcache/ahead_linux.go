package blobcache

import (
	"os"
	"path/filepath"
	"sync"
)

// ahead writes zeros into badger's newest value log just before badger writes
// chunks there. Badger writes through a memory map of a sparse file: each page is
// then made in a fault of its own, which was half of all processor time of taking
// in a blob. Pages that exist are nearly free, write(2) makes them many at once,
// and on a full disk it returns an error where a fault ends the process. Zeros
// are what a sparse file holds anyway, so a crash leaves nothing new.
//
// Zeros are written only behind all that badger may have written or be writing:
// reserve is told before each write, and find is called while there is none.
type ahead struct {
	dir   string
	limit int64 // badger goes on in a new file after so many bytes

	mu    sync.Mutex
	file  *os.File // nil: not known, find it
	used  int64    // nothing of badger's is behind this offset, written or to come
	ready int64    // the pages up to here exist
}

const (
	aheadStep = 4 << 20 // a tiny cache takes no more of the disk than this
	// entrySize is more than badger's header, key and checksum of a chunk.
	entrySize = 128
	seekHole  = 4
)

var zeros [1 << 20]byte

// lost reports whether find has to be called before reserve helps.
func (a *ahead) lost() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file == nil
}

// find takes the newest value log. Nobody may write to it meanwhile. Without one
// that has room it changes nothing: there is only less speed.
func (a *ahead) find() {
	names, _ := filepath.Glob(filepath.Join(a.dir, "*.vlog"))
	if len(names) == 0 {
		return
	}
	file, err := os.OpenFile(names[len(names)-1], os.O_WRONLY|noFollow, 0)
	if err != nil {
		return
	}
	// Where file systems know no holes, this is the file's size, which is larger.
	end, err := file.Seek(0, seekHole)
	if err != nil || end >= a.limit {
		_ = file.Close()
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop()
	a.file, a.used, a.ready = file, end, end
}

// reserve makes the pages for n more bytes of chunks in so many entries. It
// fails when the disk is full.
func (a *ahead) reserve(n int64, entries int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	// It also covers entries that end this file and go on in the next one.
	if a.used += n + int64(entries)*entrySize; a.used > a.limit {
		a.drop()
		return nil
	}
	for a.used > a.ready {
		for range aheadStep / len(zeros) {
			if _, err := a.file.WriteAt(zeros[:], a.ready); err != nil {
				a.drop()
				if noSpace(err) {
					return err
				}
				return nil
			}
			a.ready += int64(len(zeros))
		}
	}
	return nil
}

// forget makes find necessary: somebody else has written.
func (a *ahead) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop()
}

func (a *ahead) drop() {
	if a.file != nil {
		_ = a.file.Close()
		a.file = nil
	}
}
