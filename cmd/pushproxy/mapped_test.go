//go:build linux

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilesHaveTheirBlocksBeforeBadgerMapsThem also fails when x/sys/unix maps
// memory in another way than backMappings knows.
func TestFilesHaveTheirBlocksBeforeBadgerMapsThem(t *testing.T) {
	before := mapper.mmap
	backMappings()
	defer func() { mapper.mmap = before }()
	const size = 32 << 20
	for _, c := range []struct {
		name   string
		prot   int
		blocks int64 // bytes
	}{
		{"00001.sst", unix.PROT_READ | unix.PROT_WRITE, size},
		{"00001.mem", unix.PROT_READ | unix.PROT_WRITE, 20 << 20},
		{"00001.vlog", unix.PROT_READ | unix.PROT_WRITE, 2 << 20},
		{"read.sst", unix.PROT_READ, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), c.name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			p, err := unix.Mmap(int(f.Fd()), 0, size, c.prot, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Munmap(p) }()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Sys().(*syscall.Stat_t).Blocks * 512; got != c.blocks || info.Size() != size {
				t.Errorf("%d bytes have blocks, want %d", got, c.blocks)
			}
		})
	}
}

func TestTheLinkedMapperIsTheOneOfTheLibrary(t *testing.T) {
	p, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	mapper.Lock()
	known := mapper.active[&p[len(p)-1]] != nil
	mapper.Unlock()
	if !known {
		t.Error("a map that the library made is not in the linked mapper")
	}
	if err := unix.Munmap(p); err != nil {
		t.Error(err)
	}
}
