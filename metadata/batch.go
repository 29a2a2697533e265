package metadata

const (
	// A batch is one transaction, and thereby one fsync. Its bytes, and those of
	// one value below badger's threshold of 1 MiB on top, have to stay below
	// 15 % of badger's memtable size, its limit.
	maxBatchBytes = 1 << 20
	maxBatchSwaps = 512
)

// swap is one Swap on its way through the writer.
type swap struct {
	key      string
	old, new []byte
	swapped  bool
	result   chan error
}

// write is the only writer. It takes what has arrived since the last fsync and
// makes one transaction of it, until Close.
func (b *Badger) write() {
	defer close(b.done)
	for first := range b.swaps {
		batch := collect(first, b.swaps)
		err := b.apply(batch)
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
