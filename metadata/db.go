// Package metadata keeps what pushproxy knows beside the bytes themselves:
// where a blob has been seen, who may see it, what an upstream holds, which
// manifests and tags were pushed, and which pushes are still owed upstream.
//
// Facts (sources, grants, presence, manifests, tags) are shortcuts: losing one
// costs time, never correctness, so a damaged fact reads as absent. Jobs are
// promises: a damaged job is an error that someone has to see.
//
// Keys are a kind followed by fields. A field is text in which every byte other
// than A-Z a-z 0-9 . _ : @ - is written %XX; every part ends with "/", which no
// field can contain, so that no two lists of fields share a key and a shorter
// list is a prefix to scan.
//
//	format/                        format of the database, now 1
//	source/<owner>/<digest>/       repositories, newest first, 50 at most
//	grant/<principal>/<digest>/    since when
//	presence/<host>/<name>/<digest>/   when, how it is known, size
//	manifest/<host>/<name>/<digest>/   media type and the manifest's bytes
//	tag/<host>/<name>/<tag>/       digest, media type, size, when
//	session/<owner>/<host>/<name>/<digest>/   an unfinished upload upstream, sealed
//	job/<id>/                      a push that is owed; ids ascend
//	sequence/job/                  the number of the last job
//	keyed/                         fingerprint of the secret that makes owners
//
// A record is a version byte, the length of a JSON header (uvarint), the header,
// raw bytes (manifests only) and the CRC32C (4 bytes, big endian) of the key and
// all before. A record under another key than its own is therefore damaged.
//
// No secret is ever stored: owners are fingerprints made by another room's key,
// principals are names, jobs hold references to credentials.
package metadata

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"pushproxy/oci"
)

// ErrDamaged is matched by errors about a record that is there but does not
// hold what was written: its checksum, version or form is wrong.
var ErrDamaged = errors.New("metadata record is damaged")

// ErrConflict is matched by errors about a record that somebody else changed in
// the meantime.
var ErrConflict = errors.New("metadata record was changed by somebody else")

// ErrFull is matched by errors about writes refused because the disk is almost
// full. Reads and deletions go on.
var ErrFull = oci.ErrStorageFull.With("the disk that holds pushproxy's metadata is almost full")

// Owner is the fingerprint of a credential as one principal uses it at one host
// (design section 4). It is made elsewhere; here it is only compared.
type Owner [32]byte

// String returns the fingerprint in hexadecimal.
func (o Owner) String() string { return hex.EncodeToString(o[:]) }

// MarshalText encodes the fingerprint in hexadecimal.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText decodes what MarshalText wrote.
func (o *Owner) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(o) {
		return fmt.Errorf("owner is not %d hexadecimal bytes", len(o))
	}
	copy(o[:], raw)
	return nil
}

// DB gives the records their meaning. Its methods may be called from many
// goroutines at once, and from several processes where the KV is shared.
type DB struct {
	// KV holds the records. It stays the caller's to close.
	KV KV
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

const (
	// formatVersion is the layout described in the package comment.
	formatVersion = 1
	recordVersion = 1
	// maxTries bounds the attempts to change one record. Each lost race means
	// that somebody else succeeded, so more than this is a fault, not traffic.
	maxTries = 256
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// now returns the time as it is stored: in UTC, without a monotonic reading.
func (db *DB) now() time.Time {
	if db.Now != nil {
		return db.Now().UTC().Round(0)
	}
	return time.Now().UTC().Round(0)
}

// fact reads the record under key into header and returns its raw bytes. An
// absent or damaged record is not ok.
func (db *DB) fact(ctx context.Context, key string, header any) (tail []byte, ok bool, err error) {
	record, err := db.KV.Get(ctx, key)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", key, err)
	}
	tail, err = decode(key, record, header)
	return tail, record != nil && err == nil, nil
}

// update replaces the record under key by change(record), which may be called
// several times. A nil record means absent. change returns the record as it is
// to leave things alone.
func (db *DB) update(ctx context.Context, key string, change func(record []byte) ([]byte, error)) error {
	for range maxTries {
		before, err := db.KV.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		after, err := change(before)
		if err != nil {
			return err
		}
		if (before == nil) == (after == nil) && bytes.Equal(before, after) {
			return nil
		}
		done, err := db.KV.Swap(ctx, key, before, after)
		if err != nil {
			return fmt.Errorf("write %s: %w", key, err)
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("write %s: %w on each of %d attempts", key, ErrConflict, maxTries)
}

// put stores a record whatever was there.
func (db *DB) put(ctx context.Context, key string, header any, tail []byte) error {
	record, err := encode(key, header, tail)
	if err != nil {
		return err
	}
	return db.update(ctx, key, func([]byte) ([]byte, error) { return record, nil })
}

// remove deletes a record, damaged or not; absent is fine.
func (db *DB) remove(ctx context.Context, key string) error {
	return db.update(ctx, key, func([]byte) ([]byte, error) { return nil, nil })
}

// removeAll deletes every record whose key begins with prefix.
func (db *DB) removeAll(ctx context.Context, prefix string) error {
	for entry, err := range db.KV.Scan(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if err := db.remove(ctx, entry.Key); err != nil {
			return err
		}
	}
	return nil
}

// checkFormat writes the format's number into a new database and refuses one
// that a newer pushproxy has written.
func checkFormat(ctx context.Context, kv KV) error {
	type format struct {
		Format int `json:"format"`
	}
	db, key := &DB{KV: kv}, makeKey("format")
	return db.update(ctx, key, func(record []byte) ([]byte, error) {
		if record == nil {
			return encode(key, format{formatVersion}, nil)
		}
		var f format
		if _, err := decode(key, record, &f); err != nil {
			return nil, fmt.Errorf("the metadata's format number cannot be read; restore the directory or move the directory away: %w", err)
		}
		if f.Format != formatVersion {
			return nil, fmt.Errorf("the metadata has format %d and this pushproxy knows %d; use the pushproxy that wrote it, or another data_dir", f.Format, formatVersion)
		}
		return record, nil
	})
}

// makeKey returns the key of a kind and its fields; see the package comment.
func makeKey(kind string, fields ...string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteString(kind)
	b.WriteByte('/')
	for _, field := range fields {
		for i := range len(field) {
			if c := field[i]; plain(c) {
				b.WriteByte(c)
			} else {
				b.WriteByte('%')
				b.WriteByte(digits[c>>4])
				b.WriteByte(digits[c&15])
			}
		}
		b.WriteByte('/')
	}
	return b.String()
}

// plain reports whether a byte stands for itself in a key.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._:@-", c) >= 0
}

// lastField returns the last field of a key, decoded.
func lastField(key string) (string, error) {
	key = strings.TrimSuffix(key, "/")
	field := key[strings.LastIndexByte(key, '/')+1:]
	var out []byte
	for i := 0; i < len(field); i++ {
		if field[i] != '%' {
			out = append(out, field[i])
			continue
		}
		if i+2 >= len(field) {
			return "", fmt.Errorf("key %q: %w", key, ErrDamaged)
		}
		c, err := hex.DecodeString(field[i+1 : i+3])
		if err != nil {
			return "", fmt.Errorf("key %q: %w", key, ErrDamaged)
		}
		out = append(out, c[0])
		i += 2
	}
	return string(out), nil
}

// encode makes the record for key out of a header and raw bytes.
func encode(key string, header any, tail []byte) ([]byte, error) {
	text, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	record := make([]byte, 0, 1+binary.MaxVarintLen32+len(text)+len(tail)+4)
	record = append(record, recordVersion)
	record = binary.AppendUvarint(record, uint64(len(text)))
	record = append(record, text...)
	record = append(record, tail...)
	return binary.BigEndian.AppendUint32(record, checksum(key, record)), nil
}

// decode reads a record of encode into header and returns its raw bytes, which
// share record's memory. Every fault is ErrDamaged.
func decode(key string, record []byte, header any) ([]byte, error) {
	body := len(record) - 4
	if body < 2 || binary.BigEndian.Uint32(record[body:]) != checksum(key, record[:body]) {
		return nil, fmt.Errorf("%s: checksum differs: %w", key, ErrDamaged)
	}
	if record[0] != recordVersion {
		return nil, fmt.Errorf("%s: version %d is unknown: %w", key, record[0], ErrDamaged)
	}
	size, n := binary.Uvarint(record[1:body])
	if n <= 0 || size > uint64(body-1-n) {
		return nil, fmt.Errorf("%s: header length is wrong: %w", key, ErrDamaged)
	}
	rest := record[1+n : body]
	if err := json.Unmarshal(rest[:size], header); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", key, ErrDamaged, err)
	}
	return rest[size:], nil
}

func checksum(key string, body []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, body)
}
