// Package disktest holds what tests need of real disks: small ones that can be
// filled and lose power, and databases whose files are damaged byte by byte.
package disktest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tableEnd is how many bytes at the end of a table DamageTables changes: badger
// reads them when it opens the table.
const tableEnd = 4 << 10

// DamageTables changes one byte or four in turn at each place near the end of each
// table of a closed database, and calls open with the directory, which opens and
// closes the database, and reports whether it opened, or the error. That has to
// name the remedy: to move the directory away.
func DamageTables(t *testing.T, dir string, open func() (opened bool, err error)) {
	t.Helper()
	pristine := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(pristine, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("there are no tables: %v", err)
	}
	refused := 0
	for _, name := range tables {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := max(0, len(content)-tableEnd); at < len(content); at++ {
			damaged := bytes.Clone(content)
			for i := range min(1+at%2*3, len(content)-at) {
				damaged[at+i] ^= byte(0xff >> (i + at%3))
			}
			if err := os.WriteFile(name, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			opened, err := open()
			switch {
			case opened && err != nil:
				t.Errorf("damaged at %d of %d bytes, it opened and failed: %.1000v", at, len(content), err)
			case opened:
				restore(t, dir, pristine) // badger may have written
			case err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "move the directory away"):
				t.Errorf("damaged at %d of %d bytes: %.1000v; want what to do", at, len(content), err)
			default:
				refused++
			}
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("no damage was found")
	}
}

// restore makes dir what the copy is.
func restore(t *testing.T, dir, copied string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(dir, os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
}
