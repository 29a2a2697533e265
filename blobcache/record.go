package blobcache

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"

	"github.com/opencontainers/go-digest"
)

// The keys of the index, see the package doc.
const (
	uploadPrefix = "upload/"
	blobPrefix   = "blob/"
	usedPrefix   = "used/"
)

const (
	// sumSize is the length of the checksum that ends everything stored.
	sumSize = 4
	// maxSealed is the longest chunk that a store takes, in bytes.
	maxSealed = ChunkSize + 32
	// maxChunk is the highest chunk number: blobs of 8 TiB, which is half the
	// longest file of ext4.
	maxChunk = 1<<23 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blobRecord is what the index holds of a committed blob: the upload's id, 16
// bytes, and the length as a varint.
type blobRecord struct {
	Upload string // whose chunks are the blob
	Length int64  // in bytes
}

// usedRecord is what the index holds of a blob's last use: a varint.
type usedRecord struct {
	When int64 // Unix seconds
}

// sessionRecord is what the index holds of an open upload: its fields in their
// order, numbers as varints, strings and bytes behind their length. Everything
// up to Offset is in stored chunks.
type sessionRecord struct {
	Algorithm digest.Algorithm
	Owner     string
	Created   int64 // Unix seconds
	Touched   int64 // Unix seconds
	Offset    int64
	Hash      []byte // the hash's state at Offset
	// Base and BaseHash are the last checkpoint. An empty BaseHash: it is at Offset.
	Base     int64
	BaseHash []byte
}

// chunkName names a chunk in keys, checksums and errors.
func chunkName(upload string, n int) string {
	return string(appendChunkName(make([]byte, 0, 2*idSize+9), upload, n))
}

func appendChunkName(b []byte, upload string, n int) []byte {
	const digits = "0123456789abcdef"
	b = append(append(b, upload...), '/')
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// seal appends to p the CRC32C of name and p, so that a value that was stored
// under another key does not pass either.
func seal(name string, p []byte) []byte {
	return withSum(p, checksum(name, p))
}

// withSum is seal for whom the checksum is made already.
func withSum(p []byte, sum uint32) []byte { return binary.BigEndian.AppendUint32(p, sum) }

// unseal returns the payload of a sealed value, and false if it is damaged.
func unseal(name string, sealed []byte) ([]byte, bool) {
	return unsealSummed(sealed, checksum(name, sealed[:payload(len(sealed))]))
}

func checksum(name string, p []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(name), castagnoli), castagnoli, p)
}

// record is what the index holds under a key.
type record interface {
	// encode appends the fields to p.
	encode(p []byte) []byte
	// decode reads the fields and reports whether they make sense.
	decode(f *fields) bool
}

// encode returns the stored form of a record.
func encode(key string, r record) []byte { return seal(key, r.encode(make([]byte, 0, 512))) }

// decode reads the stored form of a record; the error is ErrDamaged.
func decode(key string, raw []byte, r record) error {
	p, ok := unseal(key, raw)
	if !ok {
		return fmt.Errorf("record %s: checksum: %w", key, ErrDamaged)
	}
	f := &fields{p: p}
	if sense := r.decode(f); !sense || f.short || len(f.p) > 0 {
		return fmt.Errorf("record %s makes no sense: %w", key, ErrDamaged)
	}
	return nil
}

func (r *blobRecord) encode(p []byte) []byte {
	id, _ := parseID(r.Upload)
	return binary.AppendVarint(append(p, id[:]...), r.Length)
}

func (r *blobRecord) decode(f *fields) bool {
	r.Upload = hex.EncodeToString(f.take(idSize))
	r.Length = f.number()
	return r.Length >= 0
}

func (r *usedRecord) encode(p []byte) []byte { return binary.AppendVarint(p, r.When) }

func (r *usedRecord) decode(f *fields) bool {
	r.When = f.number()
	return true
}

func (r *sessionRecord) encode(p []byte) []byte {
	p = appendText(appendText(p, string(r.Algorithm)), r.Owner)
	for _, number := range []int64{r.Created, r.Touched, r.Offset, r.Base} {
		p = binary.AppendVarint(p, number)
	}
	return appendText(appendText(p, string(r.Hash)), string(r.BaseHash))
}

func (r *sessionRecord) decode(f *fields) bool {
	*r = sessionRecord{
		Algorithm: digest.Algorithm(f.text()), Owner: string(f.text()),
		Created: f.number(), Touched: f.number(), Offset: f.number(), Base: f.number(),
		Hash: f.text(), BaseHash: f.text(),
	}
	return r.Offset >= 0 && r.Base >= 0 && known(r.Algorithm)
}

func appendText(p []byte, text string) []byte {
	return append(binary.AppendVarint(p, int64(len(text))), text...)
}

// fields reads a record's. What is not there is zero, and short.
type fields struct {
	p     []byte
	short bool
}

func (f *fields) take(n int64) (p []byte) {
	if n < 0 || n > int64(len(f.p)) {
		f.short = true
		return nil
	}
	p, f.p = f.p[:n:n], f.p[n:]
	return p
}

func (f *fields) number() int64 {
	v, n := binary.Varint(f.p)
	f.take(int64(max(n, 1)))
	f.short = f.short || n <= 0
	return v
}

func (f *fields) text() []byte { return f.take(f.number()) }

// idSize is the number of bytes of an upload's id; in names and keys they are
// lower-case hexadecimal digits.
const idSize = 16

// parseID returns the bytes of an upload's id, and false for any other text.
func parseID(id string) (raw [idSize]byte, ok bool) {
	if len(id) != 2*idSize {
		return raw, false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return raw, false
		}
		raw[i/2] = raw[i/2]<<4 | c
	}
	return raw, true
}
