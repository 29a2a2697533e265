package metadata

import (
	"bytes"
	"context"

	"pushproxy/oci"
)

const (
	// A batch is one transaction, and thereby one fsync. Its bytes, and those of
	// one value below badger's threshold of 1 MiB on top, have to stay below
	// 15 % of badger's memtable size, its limit.
	maxBatchBytes = 1 << 20
	maxBatchSwaps = 512
	// growth is how much longer a value may become without counting as new
	// data, so that a full disk does not stop a job from noting its error.
	growth = 1 << 10
)

// swap is one Swap on its way through the writer.
type swap struct {
	key      string
	old, new []byte
	swapped  bool
	result   chan error
}

// Swap implements KV.
func (b *Badger) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := checkSwap(key, old, new); err != nil {
		return false, err
	}
	b.life.RLock()
	defer b.life.RUnlock()
	if b.closed {
		return false, ErrClosed
	}
	if len(new) > len(old)+growth || old == nil {
		if err := b.disk.Space.Take(int64(len(key) + len(new))); err != nil {
			return false, full(err)
		}
	}
	// Copies, because the caller may leave before the writer is done.
	s := &swap{key: key, old: bytes.Clone(old), new: bytes.Clone(new), result: make(chan error, 1)}
	select {
	case b.swaps <- s:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	select {
	case err := <-s.result:
		return s.swapped, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// write is the only writer. It takes what has arrived since the last fsync and
// makes one transaction of it, until Close.
func (b *Badger) write() {
	defer close(b.done)
	for first := range b.swaps {
		batch := collect(first, b.swaps)
		err := oci.Guarded(func() error { return b.apply(batch) })
		for _, s := range batch {
			if err != nil {
				s.swapped = false
			}
			s.result <- err
		}
	}
}

// collect returns first and what waits behind it, within the limits of a batch.
func collect(first *swap, waiting <-chan *swap) []*swap {
	batch := []*swap{first}
	size := len(first.key) + len(first.new)
	for len(batch) < maxBatchSwaps && size < maxBatchBytes {
		select {
		case s, ok := <-waiting:
			if !ok {
				return batch
			}
			batch = append(batch, s)
			size += len(s.key) + len(s.new)
		default:
			return batch
		}
	}
	return batch
}

// sizes returns the bytes of a batch, and those and the number of its values for
// the value log.
func sizes(batch []*swap) (all, large int64, values int) {
	for _, s := range batch {
		all += int64(len(s.key) + len(s.new) + 128)
		if len(s.new) >= largeValue {
			large += int64(len(s.key) + len(s.new) + 128)
			values++
		}
	}
	return all, large, values
}
