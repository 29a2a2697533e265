package blobcache_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
	"pushproxy/disk/disktest"
)

// editFiles replaces what edit changes in every file of dir with the suffix,
// and returns how many files it changed.
func editFiles(t *testing.T, dir, suffix string, edit func([]byte) bool) (changed int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !edit(p) {
			continue
		}
		changed++
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return changed
}

func TestDamagedFilesAreNeverServed(t *testing.T) {
	t.Parallel()
	blobs := [][]byte{blobcachetest.Bytes(1, 3<<20+100<<10), blobcachetest.Bytes(2, 5<<20), blobcachetest.Bytes(3, 500), blobcachetest.Bytes(4, 2<<20)}
	inFirst := func(where int, change func(p []byte, at int)) func([]byte) bool {
		return func(p []byte) bool {
			at := bytes.Index(p, blobs[0][where:where+64])
			if at < 0 {
				return false
			}
			change(p, at)
			return true
		}
	}
	flip := func(p []byte, at int) { p[at] ^= 0x10 }
	tests := map[string]struct {
		suffix string
		edit   func([]byte) bool
	}{
		"a bit of the first chunk":  {".vlog", inFirst(100, flip)},
		"a bit of the last chunk":   {".vlog", inFirst(3<<20+5, flip)},
		"a header's length":         {".vlog", inFirst(1<<20, func(p []byte, at int) { clearHeader(p, at) })},
		"three bytes are zero":      {".vlog", inFirst(2<<20+9, func(p []byte, at int) { clear(p[at : at+3]) })},
		"the rest of the log is 0":  {".vlog", inFirst(2<<20, func(p []byte, at int) { clear(p[at:]) })},
		"a small blob in the table": {".sst", func(p []byte) bool { return flipAt(p, blobs[2][:32]) }},
		"a record in the table":     {".sst", func(p []byte) bool { return flipAt(p, []byte("blob/sha256:")) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			damageAndRead(t, blobs, test.suffix, test.edit)
		})
	}
}

// damageAndRead stores the blobs, edits the files while the store is closed, and
// checks what the next process makes of them.
func damageAndRead(t *testing.T, blobs [][]byte, suffix string, edit func([]byte) bool) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openBadger(t, dir)
	c := blobcache.New(s, s)
	for _, p := range blobs {
		commit(t, c, p)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if editFiles(t, dir, suffix, edit) == 0 {
		t.Fatal("no file held what was to be damaged")
	}
	s, err := blobcache.OpenBadger(dir, small)
	if err != nil {
		// Of its tables badger checks some at the start.
		if suffix != ".sst" || !strings.Contains(err.Error(), "move") {
			t.Errorf("OpenBadger: %v", err)
		}
		return
	}
	defer func() { _ = s.Close() }()
	c = blobcache.New(s, s)
	if damaged := readAll(t, c, blobs); damaged == 0 {
		t.Error("the damage was not noticed")
	}
	for _, p := range blobs {
		commit(t, c, p)
		wantStored(t, c, p)
	}
}

func flipAt(p, mark []byte) bool {
	at := bytes.Index(p, mark)
	if at >= 0 {
		p[at+len(mark)/2] ^= 1
	}
	return at >= 0
}

// clearHeader overwrites what badger stores before a value: its lengths and key.
func clearHeader(p []byte, at int) {
	for i := max(0, at-70); i < at; i++ {
		p[i] = 0xff
	}
}

func commit(t *testing.T, c *blobcache.Cache, p []byte) {
	t.Helper()
	u, err := c.Begin(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), digest.FromBytes(p)); err != nil {
		t.Fatal(err)
	}
}

// readAll reads the blobs and returns how many were damaged or gone. Those must
// be unknown afterwards, and no wrong byte may have come of any.
func readAll(t *testing.T, c *blobcache.Cache, blobs [][]byte) (damaged int) {
	t.Helper()
	for i, p := range blobs {
		d := digest.FromBytes(p)
		b, err := c.Open(t.Context(), d)
		if errors.Is(err, blobcache.ErrUnknown) {
			damaged++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = b.WriteTo(&got)
		_ = b.Close()
		if !bytes.HasPrefix(p, got.Bytes()) {
			t.Errorf("blob %d: wrong bytes were served", i)
		}
		if err == nil && got.Len() == len(p) {
			continue
		}
		damaged++
		if _, statErr := c.Stat(t.Context(), d); !errors.Is(err, blobcache.ErrDamaged) || !errors.Is(statErr, blobcache.ErrUnknown) {
			t.Errorf("blob %d: %d bytes, %v, then %v; want ErrDamaged, then ErrUnknown", i, got.Len(), err, statErr)
		}
	}
	return damaged
}

func TestAMemtableThatAKillLeftWithoutASizeIsNoDamage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openBadger(t, dir)
	p := blobcachetest.Bytes(1, 100)
	commit(t, blobcache.New(s, s), p)
	if err := errors.Join(s.Close(), os.WriteFile(filepath.Join(dir, "00099.mem"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s = openBadger(t, dir)
	wantStored(t, blobcache.New(s, s), p)
}

func TestADiskErrorInBadgersLogEndsAllWrites(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"sync": errors.New("while msync: bad"), "EIO": syscall.EIO} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openBadger(t, filepath.Join(t.TempDir(), "cache"))
			c := blobcache.New(s, s)
			p := blobcachetest.Bytes(1, 1000)
			commit(t, c, p)
			u, beginErr := c.Begin(t.Context(), "", "")
			if beginErr != nil {
				t.Fatal(beginErr)
			}
			s.LogForTest("Invalid read: %v", "a file that is not there") // no reason to fail
			if _, err := u.Write(p); err != nil || u.Checkpoint(t.Context()) != nil {
				t.Fatal("a read error ended writes")
			}
			s.LogForTest("Error while curlf: %v\n", err)
			_, beginErr = c.Begin(t.Context(), "", "")
			swapped, swapErr := s.Swap(t.Context(), "k", nil, []byte("v"))
			for call, err := range map[string]error{
				"Begin": beginErr, "Commit": u.Commit(t.Context(), digest.FromBytes(p[:1])), "Checkpoint": u.Checkpoint(t.Context()),
				"Swap": swapErr, "PutChunk": s.PutChunk(t.Context(), blobcachetest.ID("a"), 0, p), "Barrier": s.Barrier(t.Context()), "Drop": s.Drop(t.Context(), blobcachetest.ID("a")),
			} {
				if call == "Commit" || call == "Checkpoint" && err == nil {
					continue // nothing of it needs the disk
				}
				if !errors.Is(err, blobcache.ErrFailed) || !strings.Contains(err.Error(), "restart") {
					t.Errorf("%s: %v, want ErrFailed that says to restart", call, err)
				}
			}
			if swapped {
				t.Error("Swap was done")
			}
			wantStored(t, c, p)
		})
	}
}

// TestATableThatIsDamagedAtItsEndIsAnErrorWithARemedy: badger reads the ends of its
// tables when it opens, in goroutines where a panic would end the process.
func TestATableThatIsDamagedAtItsEndIsAnErrorWithARemedy(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openBadger(t, dir)
	commit(t, blobcache.New(s, s), blobcachetest.Bytes(1, 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	disktest.DamageTables(t, dir, func() (bool, error) {
		s, err := blobcache.OpenBadger(dir, small)
		if err != nil {
			return false, err
		}
		return true, s.Close()
	})
}

// TestABlockThatMakesNoSenseIsDamage: badger panics over one before it tests the
// block's checksum.
func TestABlockThatMakesNoSenseIsDamage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openBadger(t, dir)
	c := blobcache.New(s, s)
	for i := range 20 {
		commit(t, c, blobcachetest.Bytes(i, 500))
	}
	var keys []string
	for e, err := range s.Scan(t.Context(), "chunk/") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, e.Key)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatal(tables, err)
	}
	content, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	// A block begins with a whole key: nothing of the one before, then its length.
	begins := regexp.MustCompile(`(?s)\x00\x00.\x00chunk/`).FindAllIndex(content, -1)
	if len(begins) < 2 {
		t.Fatalf("the table has no two blocks: %v", begins)
	}
	damages, end := 0, begins[len(begins)-1][0]
	for at := end - 24; at < end; at++ {
		damaged := bytes.Clone(content)
		damaged[at] ^= 0xff
		if err := os.WriteFile(tables[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := blobcache.OpenBadger(dir, small)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, err error) {
			if err != nil && !errors.Is(err, blobcache.ErrDamaged) {
				t.Errorf("damaged at %d: %s: %v", at, what, err)
			}
			if err != nil {
				damages++
			}
		}
		for _, key := range keys {
			_, err := s.Get(t.Context(), key)
			check("get", err)
		}
		for _, err := range s.Scan(t.Context(), "chunk/") {
			check("scan", err)
		}
		for _, err := range s.Uploads(t.Context()) {
			check("uploads", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if damages == 0 {
		t.Error("nothing was damaged")
	}
}
