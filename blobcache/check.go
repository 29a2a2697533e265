package blobcache

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Checked is what Check found.
type Checked struct {
	Blobs   int             `json:"blobs"`   // records of blobs
	Read    int             `json:"read"`    // of which read to the end
	Bytes   int64           `json:"bytes"`   // … that were read
	Damaged []digest.Digest `json:"damaged"` // set aside: unknown from now on
}

// Check looks at every blob's record and its last chunk, and reads percent of the blobs,
// chosen by chance, against their digests. What is damaged is set aside, as a
// reader would have done; pushing it again heals it. It may run beside
// everything else.
func (c *Cache) Check(ctx context.Context, percent float64) (Checked, error) {
	r := Checked{Damaged: []digest.Digest{}}
	for e, err := range c.index.Scan(ctx, blobPrefix) {
		if err != nil {
			return r, err
		}
		d := digest.Digest(strings.TrimPrefix(e.Key, blobPrefix))
		r.Blobs++
		n, err := c.checkBlob(ctx, d, rand.Float64()*100 < percent)
		switch {
		case errors.Is(err, ErrDamaged):
			r.Damaged = append(r.Damaged, d)
		case errors.Is(err, ErrUnknown):
			continue // removed meanwhile
		case err != nil:
			return r, err
		case n >= 0:
			r.Read++
			r.Bytes += n
		}
	}
	return r, nil
}

// checkBlob returns how many bytes it read of the blob, -1 where only its end
// was looked at.
func (c *Cache) checkBlob(ctx context.Context, d digest.Digest, whole bool) (int64, error) {
	// To be checked is no use in the sense of Collect.
	record, raw, err := c.record(ctx, d)
	if err != nil {
		return 0, err
	}
	b := c.read(ctx, d, record, raw)
	defer b.Close()
	if whole {
		return b.WriteTo(io.Discard)
	}
	if b.Size() == 0 {
		return -1, nil
	}
	if _, err := b.Seek(-1, io.SeekEnd); err != nil {
		return 0, err
	}
	_, err = io.ReadFull(b, make([]byte, 1))
	return -1, err
}
