package blobcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// A body's file is slots of slotSize bytes, one for each chunk in the order of
// their numbers, so that an upload is written from front to back. A slot is a
// header, the chunk, and what is left: the header is the chunk's length, with
// inSecond added where the chunk is in the same slot of the second file, and the
// CRC32C of that number. A header of zeros stands for no chunk.
//
// A chunk is written before its header, and one that replaces another into the
// file that does not hold it: whenever the process is killed, a header names a
// chunk that is whole.
const (
	slotSize   = ChunkSize + 64 // headers lie within a page: each is written at once
	headerSize = 8
	inSecond   = 1 << 31
	second     = ".2" // what the second file's name ends with
)

// bodyFile is an upload's file, open for one call.
type bodyFile struct {
	*os.File
	path    string
	created bool
}

// openBody opens the file at path, which is not followed if it is a link.
func openBody(path string, flag int) (*bodyFile, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &bodyFile{File: f, path: path}, nil
}

// createBody makes the file at path, and its directory.
func createBody(path string) (*bodyFile, error) {
	f, err := openBody(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Mkdir(filepath.Dir(path), 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			f, err = openBody(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		}
	}
	if err != nil {
		return nil, err
	}
	f.created = true
	return f, nil
}

// removeBody removes the file and its second, if they are there.
func removeBody(path string) error {
	for _, name := range []string{path + second, path} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// header returns the length of chunk n and whether the second file holds it; 0
// stands for no chunk.
func (f *bodyFile) header(n int) (length int, other bool, err error) {
	var h [headerSize]byte
	if _, err := f.ReadAt(h[:], int64(n)*slotSize); err == io.EOF {
		return 0, false, nil
	} else if err != nil {
		return 0, false, err
	}
	if h == [headerSize]byte{} {
		return 0, false, nil
	}
	v := binary.BigEndian.Uint32(h[:4])
	if crc32.Checksum(h[:4], castagnoli) != binary.BigEndian.Uint32(h[4:]) || v&^inSecond > maxSealed || v&^inSecond == 0 {
		return 0, false, fmt.Errorf("header of slot %d: % x", n, h)
	}
	return int(v &^ inSecond), v&inSecond != 0, nil
}

// get returns chunk n, in buf's memory where it fits, and its sum as GetSummed
// does, or fs.ErrNotExist.
func (f *bodyFile) get(n int, buf []byte, sum uint32) ([]byte, uint32, error) {
	length, other, err := f.header(n)
	if err != nil {
		return nil, 0, err
	}
	if length == 0 {
		return nil, 0, fs.ErrNotExist
	}
	from := f
	if other {
		if from, err = openBody(f.path+second, os.O_RDONLY); err != nil {
			// Not fs.ErrNotExist: the header says that there is a chunk.
			return nil, 0, errors.New(err.Error())
		}
		defer func() { _ = from.Close() }()
	}
	return readSummed(from, int64(n)*slotSize+headerSize, length, buf, sum)
}

// put stores chunk n, all of it or nothing. It takes the upload's lock against
// readers if they may read what it writes over.
func (f *bodyFile) put(lock *sync.RWMutex, n int, p []byte) error {
	length, other, err := f.header(n)
	if err != nil {
		// Whatever the slot held is lost already.
		length = 0
	}
	if length == 0 {
		if err = f.write(f.File, n, p, uint32(len(p))); err != nil && f.created {
			return errors.Join(err, os.Remove(f.path))
		}
		return err
	}
	lock.Lock()
	defer lock.Unlock()
	if other {
		return f.write(f.File, n, p, uint32(len(p)))
	}
	into, err := openBody(f.path+second, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return err
	}
	return errors.Join(f.write(into.File, n, p, uint32(len(p))|inSecond), into.Close())
}

// write writes the chunk into a file, then its header. What a failure leaves
// behind the file's end is cut off.
func (f *bodyFile) write(into *os.File, n int, p []byte, length uint32) error {
	at := int64(n) * slotSize
	info, err := into.Stat()
	if err != nil {
		return err
	}
	_, err = into.WriteAt(p, at+headerSize)
	if err == nil {
		var h [headerSize]byte
		binary.BigEndian.PutUint32(h[:4], length)
		binary.BigEndian.PutUint32(h[4:], crc32.Checksum(h[:4], castagnoli))
		_, err = f.WriteAt(h[:], at)
	}
	if err != nil {
		_ = into.Truncate(info.Size())
	}
	return err
}
