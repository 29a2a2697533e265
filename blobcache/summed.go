package blobcache

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Summed is Bodies that can sum a chunk while they copy it: what is in the
// processor's cache is summed four times as fast as what has to be fetched from
// memory again.
type Summed interface {
	// GetSummed is GetChunk, with the CRC32C of all but the last four bytes, which
	// goes on from seed.
	GetSummed(ctx context.Context, upload string, n int, buf []byte, seed uint32) (sealed []byte, sum uint32, err error)
}

// GetChunk implements Bodies.
func (s *Badger) GetChunk(ctx context.Context, upload string, n int, buf []byte) (p []byte, err error) {
	p, _, err = s.GetSummed(ctx, upload, n, buf, 0)
	return p, err
}

// GetSummed implements Summed.
func (s *Badger) GetSummed(ctx context.Context, upload string, n int, buf []byte, seed uint32) (p []byte, sum uint32, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	key := chunkKey(upload, n)
	err = s.viewItem(key, func(item any) (whole bool) {
		p, sum, whole = s.readLog(item, len(key), buf, seed)
		return whole
	}, func(v []byte) {
		if p = nil; v != nil {
			p, sum = copySummed(buf, v, seed)
		}
	})
	if err == nil && p == nil {
		err = fmt.Errorf("chunk %s: %w", chunkName(upload, n), ErrUnknown)
	}
	return p, sum, err
}

// sumStep is how many bytes are copied and then summed.
const sumStep = 64 << 10

// payload returns how many bytes of a sealed chunk its checksum is of.
func payload(sealed int) int { return max(sealed-sumSize, 0) }

// copySummed copies sealed into buf's memory, if it fits, and goes on from seed
// with the CRC32C of its payload.
func copySummed(buf, sealed []byte, seed uint32) ([]byte, uint32) {
	if buf = buf[:0]; cap(buf) < len(sealed) {
		buf = make([]byte, 0, len(sealed))
	}
	for end := payload(len(sealed)); len(buf) < end; {
		n := min(end, len(buf)+sumStep)
		before := len(buf)
		buf = append(buf, sealed[before:n]...)
		seed = crc32.Update(seed, castagnoli, buf[before:])
	}
	return append(buf, sealed[len(buf):]...), seed
}

// readSummed is copySummed for the length bytes of a file at an offset.
func readSummed(f io.ReaderAt, at int64, length int, buf []byte, sum uint32) ([]byte, uint32, error) {
	if cap(buf) < length {
		buf = make([]byte, length)
	}
	buf = buf[:length]
	end := payload(length)
	for i := 0; i < end; i += sumStep {
		part := buf[i:min(i+sumStep, end)]
		if _, err := f.ReadAt(part, at+int64(i)); err != nil {
			return nil, 0, err
		}
		sum = crc32.Update(sum, castagnoli, part)
	}
	_, err := f.ReadAt(buf[end:], at+int64(end))
	return buf, sum, err
}

// unsealSummed is unseal for whom the payload is summed already.
func unsealSummed(sealed []byte, sum uint32) ([]byte, bool) {
	n := len(sealed) - sumSize
	if n < 0 || binary.BigEndian.Uint32(sealed[n:]) != sum {
		return nil, false
	}
	return sealed[:n], true
}
