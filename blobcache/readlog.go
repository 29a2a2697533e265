package blobcache

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
)

const (
	pointerSize = 12 // bytes of badger's valuePointer: file, length and offset of an entry
	versionSize = 8  // bytes that badger puts behind a key
)

// readLog reads the sealed chunk that an item of badger stands for from the value
// log itself, and reports whether it is whole. badger can read it too, but sums it
// first, which has to be done before its own parsing and is then done again here:
// a quarter of what serving a blob costs.
//
// Nothing here has to be believed: what is read is whole when its checksum, which
// is of the chunk's name too, is right. Whenever it is not, if only because a
// badger to come stores values in another way, badger reads the chunk.
func (s *Badger) readLog(item any, key int, buf []byte, seed uint32) (p []byte, sum uint32, whole bool) {
	name, at, length, ok := placeOf(item, key)
	if !ok {
		return nil, 0, false
	}
	f, err := os.OpenFile(filepath.Join(s.files.dir, name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, false
	}
	defer func() { _ = f.Close() }()
	if p, sum, err = readSummed(f, at, length, buf, seed); err != nil {
		return nil, 0, false
	}
	_, whole = unsealSummed(p, sum)
	return p, sum, whole
}

// placeOf returns in which value log the item's value lies, where, and how long it
// is. badger has no method that says so; its items hold it in the field vptr. The
// key has so many bytes.
func placeOf(item any, key int) (file string, at int64, length int, ok bool) {
	v := reflect.ValueOf(item)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return "", 0, 0, false
	}
	v = v.Elem().FieldByName("vptr")
	if v.Kind() != reflect.Slice || v.Type().Elem().Kind() != reflect.Uint8 || v.Len() != pointerSize {
		return "", 0, 0, false
	}
	p := v.Bytes()
	number, entry, at := binary.NativeEndian.Uint32(p), int(binary.NativeEndian.Uint32(p[4:])), int64(binary.NativeEndian.Uint32(p[8:]))
	// An entry is a header, the key, the value and a checksum. The header is two
	// bytes, the lengths of key and value, and when it expires, which is never.
	key += versionSize
	for short := range binary.MaxVarintLen32 {
		length = entry - key - sumSize - 3 - varintSize(key) - short - 1
		if length > 0 && length <= maxSealed && varintSize(length) == short+1 {
			return fmt.Sprintf("%06d.vlog", number), at + int64(3+varintSize(key)+short+1+key), length, true
		}
	}
	return "", 0, 0, false
}

// varintSize returns how many bytes a number has as a varint.
func varintSize(n int) int {
	return len(binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64), uint64(n)))
}
