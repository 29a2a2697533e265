package blobcache

import (
	"encoding/binary"
	"encoding/json"
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
	// maxChunk is the highest chunk number: eight hexadecimal digits.
	maxChunk = 1<<32 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blobRecord is what the index holds of a committed blob.
type blobRecord struct {
	Upload string `json:"upload"` // whose chunks are the blob
	Length int64  `json:"length"` // in bytes
}

// usedRecord is what the index holds of a blob's last use.
type usedRecord struct {
	When int64 `json:"when"` // Unix seconds
}

// sessionRecord is what the index holds of an open upload. Everything up to
// Offset is in stored chunks.
type sessionRecord struct {
	Algorithm digest.Algorithm `json:"algorithm"`
	Owner     string           `json:"owner,omitempty"`
	Created   int64            `json:"created"` // Unix seconds
	Touched   int64            `json:"touched"` // Unix seconds
	Offset    int64            `json:"offset"`
	Hash      []byte           `json:"hash"` // the hash's state at Offset
	// Base and BaseHash are the last checkpoint, where it is not at Offset.
	Base     int64  `json:"base,omitempty"`
	BaseHash []byte `json:"base_hash,omitempty"`
	// Commit is the digest whose blob record is about to be written or was:
	// the chunks of an upload that became a blob must never change again.
	Commit digest.Digest `json:"commit,omitempty"`
}

// chunkName names a chunk in keys, checksums and errors.
func chunkName(upload string, n int) string { return fmt.Sprintf("%s/%08x", upload, n) }

// seal appends to p the CRC32C of name and p, so that a value that was stored
// under another key does not pass either.
func seal(name string, p []byte) []byte {
	return binary.BigEndian.AppendUint32(p, checksum(name, p))
}

// unseal returns the payload of a sealed value, and false if it is damaged.
func unseal(name string, sealed []byte) ([]byte, bool) {
	n := len(sealed) - sumSize
	if n < 0 || binary.BigEndian.Uint32(sealed[n:]) != checksum(name, sealed[:n]) {
		return nil, false
	}
	return sealed[:n], true
}

func checksum(name string, p []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(name), castagnoli), castagnoli, p)
}

// encode returns the stored form of a record.
func encode(key string, record any) ([]byte, error) {
	p, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", key, err)
	}
	return seal(key, p), nil
}

// decode reads the stored form of a record; the error is ErrDamaged.
func decode(key string, raw []byte, record any) error {
	p, ok := unseal(key, raw)
	if !ok {
		return fmt.Errorf("record %s: checksum: %w", key, ErrDamaged)
	}
	if err := json.Unmarshal(p, record); err != nil {
		return fmt.Errorf("record %s: %w: %w", key, ErrDamaged, err)
	}
	return nil
}
