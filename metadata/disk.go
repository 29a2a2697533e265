package metadata

import (
	"errors"
	"fmt"

	"pushproxy/disk"
)

// openError explains why badger did not open dir.
func openError(dir string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the metadata in %s cannot be opened; restore the directory or move the directory away: %w", dir, err)
}

// full makes ErrFull of the error of a disk without space.
func full(err error) error {
	var f *disk.FullError
	if !errors.As(err, &f) {
		return err
	}
	return ErrFull.With("the disk that holds pushproxy's metadata is full: %s, or move data_dir", f).Because(f.Err)
}

// reserve makes room on the disk for a batch: on a full one small changes go on
// for a while, large values do not.
func (b *Badger) reserve(batch []*swap) error {
	all, large, values := sizes(batch)
	if err := b.disk.Ready(all, large > 0); err != nil || large == 0 {
		return err
	}
	// Badger may have gone on in a new file since the last large value.
	b.disk.Tail.Find()
	_, err := b.disk.Tail.Reserve(large, values)
	return b.disk.Space.Explain(err)
}
