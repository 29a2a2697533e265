package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
	_ "unsafe" // for go:linkname

	_ "golang.org/x/sys/unix" // whose mapper is linked to
)

// mmapper is the head of what golang.org/x/sys/unix maps memory with.
type mmapper struct {
	sync.Mutex
	active map[*byte][]byte
	mmap   mapFunc
}

type mapFunc func(addr, length uintptr, prot, flags, fd int, offset int64) (uintptr, error)

//go:linkname mapper golang.org/x/sys/unix.mapper
var mapper *mmapper

// backMappings makes an empty file that is mapped for writing get its blocks
// before it is mapped. badger writes its files through maps of sparse files: a
// page for which the disk has no room is a SIGBUS, in a goroutine of badger's
// where nothing can catch it. Without the room, mapping waits for it, since
// badger forgets the error of a table and with it what the table was to hold. It
// has no option for any of this, and x/sys/unix is where all its maps are made.
// It is called once, before any database is open.
func backMappings() {
	mapper.mmap = backed(mapper.mmap)
}

func backed(next mapFunc) mapFunc {
	return func(addr, length uintptr, prot, flags, fd int, offset int64) (uintptr, error) {
		if prot&syscall.PROT_WRITE != 0 && flags&syscall.MAP_SHARED != 0 {
			if err := back(fd, int64(length)); err != nil {
				return 0, err
			}
		}
		return next(addr, length, prot, flags, fd, offset)
	}
}

// memtableWait is how long a memtable waits for room: only a start makes one that
// was not prepared, and is better refused.
const memtableWait = 5 * time.Second

// folio is what the kernel may keep as one piece in memory: it needs all of its
// blocks when any part is written.
const folio = 2 << 20

// back gives a file without blocks those that badger writes to before anybody
// else looks after it.
func back(fd int, length int64) error {
	var s syscall.Stat_t
	if syscall.Fstat(fd, &s) != nil || s.Blocks > 0 || s.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil
	}
	began := time.Now()
	switch filepath.Ext(name) {
	case ".vlog":
		// Its header: blobcache and metadata prepare the rest as it is written.
		length = min(length, folio)
	case ".mem":
		// It is mapped twice as long as it gets, but for a last transaction.
		length = min(length, max(length*5/8, folio))
	}
	for {
		err = syscall.Fallocate(fd, 0, 0, length)
		switch {
		case err == syscall.EINTR:
			continue
		case !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT):
			return nil // done, or a file system that cannot do it
		case os.Remove(newBallast(filepath.Dir(filepath.Dir(name))).file) == nil:
			continue
		case filepath.Ext(name) == ".mem" && time.Since(began) > memtableWait:
			return &os.PathError{Op: "allocate", Path: name, Err: err}
		}
		<-time.After(50 * time.Millisecond)
	}
}
