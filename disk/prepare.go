package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Prepare makes dir, with mode 0700, or checks that the one that is there is a
// directory of ours alone that can be written to. Its errors say what to do.
func Prepare(dir string) error {
	if dir == "" {
		return errors.New("a database's directory has no name")
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("%s cannot be made; choose another data_dir: %w", dir, err)
		}
		grow(dir)
		return Sync(filepath.Dir(dir))
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read; choose another data_dir: %w", dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory; choose another data_dir", dir)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d and pushproxy runs as user %d; run it as that user or choose another data_dir", dir, stat.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to other users (mode %04o); run: chmod 700 %s", dir, mode, dir)
	}
	probe, err := os.CreateTemp(dir, ".writable-")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		return fmt.Errorf("%s is not writable; choose another data_dir: %w", dir, err)
	}
	grow(dir)
	return nil
}

// grow makes a directory have room for more names than badger ever has there,
// which stays when they are gone: a table that cannot be made on a full disk for
// lack of its name's block is lost in a compaction, without an error.
func grow(dir string) {
	if info, err := os.Stat(dir); err != nil || info.Size() >= 16<<10 {
		return
	}
	first := filepath.Join(dir, ".grow")
	if err := os.WriteFile(first, nil, 0o600); err != nil {
		return
	}
	names := []string{first}
	for i := range 300 {
		name := fmt.Sprintf("%s-%0100d", first, i)
		if os.Link(first, name) != nil {
			break
		}
		names = append(names, name)
	}
	for _, name := range names {
		_ = os.Remove(name)
	}
}

// Sync makes the content of a file durable, or the names in a directory, if it is
// still there: what removes one has made sure that it is not needed.
func Sync(name string) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
