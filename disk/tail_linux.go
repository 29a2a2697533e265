package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Tail makes room at the end of badger's newest value log: it writes zeros there
// just before badger writes values. Badger writes through a memory map of a sparse
// file: each page is then made in a fault of its own, which was half of all
// processor time of taking in a blob. Pages that exist are nearly free, write(2)
// makes them many at once, and on a full disk it returns an error where a fault
// ends the process. Zeros are what a sparse file holds anyway, so a crash leaves
// nothing new.
//
// Zeros are written only behind all that badger may have written or be writing:
// Reserve is told before each write, and Find is called while there is none.
type Tail struct {
	dir   string
	limit int64 // badger goes on in a new file after so many bytes

	mu    sync.Mutex
	file  *os.File // nil: not known, Find it
	used  int64    // nothing of badger's is behind this offset, written or to come
	ready int64    // the blocks up to here exist
}

const (
	aheadStep = 4 << 20 // a tiny store takes no more of the disk than this
	// entrySize is more than badger's header, key and checksum of a value.
	entrySize = 128
	// folio is more than the kernel keeps as one piece of what is written here:
	// when a block of it is missing, a write to any part is a fault.
	folio    = 2 << 20
	seekHole = 4
)

var zeros [1 << 20]byte

// Lost reports whether Find has to be called before Reserve helps.
func (t *Tail) Lost() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file == nil
}

// Find takes the newest value log. Nobody may write to it meanwhile.
func (t *Tail) Find() {
	names, _ := filepath.Glob(filepath.Join(t.dir, "*.vlog"))
	if len(names) == 0 {
		return
	}
	file, err := os.OpenFile(names[len(names)-1], os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	// Where file systems know no holes, this is the file's size, which is larger.
	end, err := file.Seek(0, seekHole)
	if err != nil {
		_ = file.Close()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
	t.file, t.used, t.ready = file, written(names[len(names)-1], end), end
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

// Reserve makes the pages for n more bytes of values in so many entries. It is
// the file system's error when the disk is full. It reports whether Find is needed,
// or badger may go on in a new file after these: then nothing else may be written
// before Find.
func (t *Tail) Reserve(n int64, entries int) (last bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		// Somebody met the end of the disk since Lost was asked.
		return true, nil
	}
	t.used += n + int64(entries)*entrySize
	for t.used > t.ready&^(folio-1) {
		for range aheadStep / len(zeros) {
			if _, err := t.file.WriteAt(zeros[:], t.ready); err != nil {
				t.drop()
				if noSpace(err) {
					return false, err
				}
				return false, nil
			}
			t.ready += int64(len(zeros))
		}
	}
	return t.used > t.limit, nil
}

// Left returns how many bytes badger surely still writes to this file.
func (t *Tail) Left() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return t.limit
	}
	return t.limit - t.used
}

// Forget makes Find necessary: somebody else has written.
func (t *Tail) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
}

func (t *Tail) drop() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}
