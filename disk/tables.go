package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
)

// CheckTables calls parse with the content of each table that a manifest names,
// and returns what is wrong with one: parse's error, or that it panicked, or that
// the disk cannot be read. The content is a map of the file, and gone when parse
// returns. Badger does the same in goroutines of its own, where a panic over
// damage would end the process. What is missing, and a manifest that tables cannot
// read, is left for badger to complain about.
func (d *Dir) CheckTables(tables func(manifest *os.File) (iter.Seq[uint64], error), parse func(table uint64, content []byte) error) error {
	manifest, err := os.Open(filepath.Join(d.path, "MANIFEST"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = manifest.Close() }()
	all, err := tables(manifest)
	if err != nil {
		return nil
	}
	for table := range all {
		name := fmt.Sprintf("%06d.sst", table)
		err := mapped(filepath.Join(d.path, name), func(content []byte) error { return parse(table, content) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
	return nil
}

// errNonsense is what is said of a table that makes its reader panic. The panic's
// own text is a dump of the table.
var errNonsense = errors.New("it is damaged, and makes no sense")

// mapped calls parse with a file's content.
func mapped(name string, parse func(content []byte) error) (err error) {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("it is empty")
	}
	content, err := syscall.Mmap(int(file.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Munmap(content) }()
	// A bad sector is a fault, which ends the process unless it is asked to be a
	// panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errNonsense
		}
	}()
	return parse(content)
}
