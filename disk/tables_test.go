package disk_test

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tables reads a manifest of these tests: the numbers of tables.
func tables(manifest *os.File) (iter.Seq[uint64], error) {
	var ids []uint64
	for {
		var id uint64
		if _, err := fmt.Fscan(manifest, &id); err != nil {
			return slices.Values(ids), nil
		}
		ids = append(ids, id)
	}
}

func TestEachTableIsReadAndWhatIsWrongWithOneIsAnError(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "db")
	d := open(t, dir, sizes)
	parse := func(id uint64, content []byte) error {
		switch string(content) {
		case "wrong":
			return errors.New("it is wrong")
		case "panics":
			panic(strings.Repeat("dump ", 1e5))
		case fmt.Sprint("table ", id):
			return nil
		}
		t.Errorf("table %d: %q", id, content)
		return nil
	}
	if err := d.CheckTables(tables, parse); err != nil {
		t.Errorf("a new database: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("1 2 3"), 0o600))
	for content, want := range map[string]string{"table 3": "", "wrong": "it is wrong", "panics": "makes no sense", "": "it is empty"} {
		for id, content := range map[int]string{1: "table 1", 3: content, 4: "not in the manifest"} {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d.sst", id)), []byte(content), 0o600))
		}
		err := d.CheckTables(tables, parse)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "000003.sst") || !strings.Contains(err.Error(), want) || len(err.Error()) > 200) {
			t.Errorf("%q: got %.300v, want %q", content, err, want)
		}
	}
	if err := d.CheckTables(func(*os.File) (iter.Seq[uint64], error) { return nil, errors.New("no manifest") }, parse); err != nil {
		t.Errorf("a manifest that is damaged is badger's to complain about: %v", err)
	}
}

// TestATableThatTheDiskCannotReadIsAnError: behind its end a map faults as on a
// bad sector.
func TestATableThatTheDiskCannotReadIsAnError(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "db")
	d := open(t, dir, sizes)
	name := filepath.Join(dir, "000001.sst")
	must(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("1"), 0o600), os.WriteFile(name, make([]byte, 64<<10), 0o600))
	sum := 0
	err := d.CheckTables(tables, func(_ uint64, content []byte) error {
		must(t, os.Truncate(name, 0))
		for _, b := range content {
			sum += int(b)
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "makes no sense") {
		t.Errorf("got %v", err)
	}
}
