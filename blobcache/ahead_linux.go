package blobcache

import (
	"bytes"
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
	ready int64    // the blocks up to here exist
}

const (
	aheadStep = 4 << 20 // a tiny cache takes no more of the disk than this
	// entrySize is more than badger's header, key and checksum of a chunk.
	entrySize = 128
	// folio is more than the kernel keeps as one piece of what is written here:
	// when a block of it is missing, a write to any part is a fault.
	folio    = 2 << 20
	seekHole = 4
)

var zeros [1 << 20]byte

// lost reports whether find has to be called before reserve helps.
func (a *ahead) lost() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file == nil
}

// find takes the newest value log. Nobody may write to it meanwhile.
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
	if err != nil {
		_ = file.Close()
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop()
	a.file, a.used, a.ready = file, written(names[len(names)-1], end), end
}

// written returns an offset in front of end behind which there are only zeros,
// which somebody wrote ahead.
func written(name string, end int64) int64 {
	file, err := os.Open(name)
	if err != nil {
		return end
	}
	defer func() { _ = file.Close() }()
	for buf := make([]byte, len(zeros)); end > 0; {
		from := max(0, end-int64(len(buf)))
		p := buf[:end-from]
		if _, err := file.ReadAt(p, from); err != nil {
			return end
		}
		// An entry's checksum may end with zeros.
		if data := bytes.TrimRight(p, "\x00"); len(data) > 0 {
			return min(end, from+int64(len(data))+entrySize)
		}
		end = from
	}
	return end
}

// reserve makes the pages for n more bytes of chunks in so many entries. It
// fails when the disk is full. It reports whether find is needed, or badger may
// go on in a new file after these: then nothing else may be written before find.
func (a *ahead) reserve(n int64, entries int) (last bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		// Somebody met the end of the disk since lost was asked.
		return true, nil
	}
	a.used += n + int64(entries)*entrySize
	for a.used > a.ready&^(folio-1) {
		for range aheadStep / len(zeros) {
			if _, err := a.file.WriteAt(zeros[:], a.ready); err != nil {
				a.drop()
				if noSpace(err) {
					return false, err
				}
				return false, nil
			}
			a.ready += int64(len(zeros))
		}
	}
	return a.used > a.limit, nil
}

// room returns how many bytes badger surely still writes to this file.
func (a *ahead) room() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return a.limit
	}
	return a.limit - a.used
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
