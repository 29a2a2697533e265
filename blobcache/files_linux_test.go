package blobcache_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
	"pushproxy/disk/disktest"
)

// noFloor leaves the refusal of writes to the file system.
var noFloor = blobcache.BadgerOptions{Floor: -1 << 40, ValueLogFileSize: 16 << 20, MemTableSize: 4 << 20}

func TestAFileSystemWithoutSpaceIsAnErrorThatLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	// Only the bodies are on the small disk: badger itself must never meet one.
	small := filepath.Join(disktest.Small(t, 64<<20).Dir, "bodies")
	dir := filepath.Join(t.TempDir(), "cache")
	for _, err := range []error{os.Mkdir(small, 0o700), os.MkdirAll(filepath.Join(dir, "files"), 0o700), os.Chmod(dir, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mount", "--bind", small, filepath.Join(dir, "files"))
	t.Cleanup(func() { run(t, "umount", filepath.Join(dir, "files")) })
	s := openFiles(t, dir, blobcache.FilesOptions{BadgerOptions: noFloor})
	c := blobcache.New(s, s)
	late := blobcachetest.ID("late")
	tail := blobcachetest.Bytes(3, 100<<10)
	for n, p := range map[int][]byte{1: blobcachetest.Bytes(1, 1<<20), 2: tail} {
		if err := s.PutChunk(t.Context(), late, n, p); err != nil {
			t.Fatal(err)
		}
	}
	seeds := fill(t, c)
	var err error
	for i := 0; err == nil; i++ {
		err = s.PutChunk(t.Context(), blobcachetest.ID("filler"), i, blobcachetest.Bytes(1, 100<<10))
	}
	// In front of a chunk that is there, nothing can be cut off.
	putErr := s.PutChunk(t.Context(), late, 0, blobcachetest.Bytes(2, 1<<20))
	if _, getErr := s.GetChunk(t.Context(), late, 0, nil); !errors.Is(putErr, blobcache.ErrFull) || !errors.Is(getErr, blobcache.ErrUnknown) {
		t.Errorf("a chunk without space: %v, then %v; want ErrFull, then ErrUnknown", putErr, getErr)
	}
	putErr = s.PutChunk(t.Context(), late, 2, blobcachetest.Bytes(4, 1<<20))
	if p, err := s.GetChunk(t.Context(), late, 2, nil); !errors.Is(putErr, blobcache.ErrFull) || err != nil || !bytes.Equal(p, tail) {
		t.Errorf("a longer chunk without space: %v, then %d bytes, %v; want ErrFull, then what it was to replace", putErr, len(p), err)
	}
	if err := s.Drop(t.Context(), late, blobcachetest.ID("filler")); err != nil {
		t.Fatal(err)
	}
	if len(seeds) < 5 {
		t.Fatalf("only %d blobs of 5 MiB fit on 64 MiB", len(seeds))
	}
	for _, path := range bodyFiles(t, dir) {
		// Slots without their headers would be half written chunks.
		if info, err := os.Stat(path); err != nil || info.Size()%(1<<20+64) != (1<<20+12)%(1<<20+64) {
			t.Errorf("%s ends at %d, %v", path, info.Size(), err)
		}
	}
	for _, seed := range seeds {
		wantStored(t, c, blobcachetest.Bytes(seed, 5<<20))
	}
	commit(t, c, blobcachetest.Bytes(1, 60<<10)) // small ones have space still
	for _, seed := range seeds[1:] {
		if err := c.Remove(t.Context(), digest.FromBytes(blobcachetest.Bytes(seed, 5<<20))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Sweep(t.Context(), 0); err != nil {
		t.Fatalf("Sweep on a full disk: %v", err)
	}
	if left := bodyFiles(t, dir); len(left) != 1 {
		t.Errorf("after Sweep: %d files, want that of one blob", len(left))
	}
	if err := pushSeed(t, c, 9999); err != nil {
		t.Fatalf("push after space came back: %v", err)
	}
	wantStored(t, c, blobcachetest.Bytes(9999, 5<<20))
}

func TestIdleSessionsAndReadersHoldNoFiles(t *testing.T) {
	s := openFiles(t, filepath.Join(t.TempDir(), "cache"), blobcache.FilesOptions{BadgerOptions: small})
	c := blobcache.New(s, s)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	p := blobcachetest.Bytes(1, 1<<20+100<<10)
	for i := range 40 {
		p[0] = byte(i)
		u, err := c.Begin(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer u.Release()
		if _, err := u.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := u.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			continue
		}
		if err := u.Commit(t.Context(), digest.FromBytes(p)); err != nil {
			t.Fatal(err)
		}
		b, err := c.Open(t.Context(), digest.FromBytes(p))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if now := open(); now > before+10 {
		t.Errorf("%d files are open, %d were before", now, before)
	}
}
