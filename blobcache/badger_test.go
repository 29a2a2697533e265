//go:build linux || darwin

package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// usage returns the bytes that the directory's value logs, where chunks are,
// take on the disk.
func usage(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(d.Name()) != ".vlog" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestSpaceOfDroppedUploadsReturnsWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openBadger(t, dir)
	chunk := blobcachetest.Bytes(1, blobcache.ChunkSize)
	var dead []string
	for i := range 6 {
		upload := blobcachetest.ID(fmt.Sprint("upload", i))
		for n := range 16 {
			if err := s.PutChunk(t.Context(), upload, n, chunk); err != nil {
				t.Fatal(err)
			}
		}
		if i > 0 {
			dead = append(dead, upload)
		}
	}
	full := usage(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := s.PutChunk(t.Context(), blobcachetest.ID("writer"), i%4, chunk[:1000]); err != nil {
				t.Errorf("write beside Drop: %v", err)
			}
		}
	})
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if p, err := s.GetChunk(t.Context(), blobcachetest.ID("upload0"), n%16, nil); err != nil || len(p) != len(chunk) {
				t.Errorf("read beside Drop: %d bytes, %v", len(p), err)
			}
		}
	})
	err := s.Drop(t.Context(), dead...)
	cancel()
	wg.Wait()
	if err != nil {
		t.Fatalf("Drop: %v", err)
	}
	// One upload of 16 MiB is left, and the newest file is never collected.
	if left := usage(t, dir); left > full/2 {
		t.Errorf("%d MiB of %d MiB are still used", left>>20, full>>20)
	}
	for n := range 16 {
		if _, err := s.GetChunk(t.Context(), blobcachetest.ID("upload0"), n, nil); err != nil {
			t.Errorf("the upload that was kept: %v", err)
		}
	}
}

func TestWhatAReclaimMovesIsNotWrittenOver(t *testing.T) {
	t.Parallel()
	s := openBadger(t, filepath.Join(t.TempDir(), "cache"))
	alive, dead := blobcachetest.ID("alive"), blobcachetest.ID("dead")
	for n := range 24 {
		for seed, upload := range []string{alive, dead, dead} {
			if err := s.PutChunk(t.Context(), upload, n+24*seed, blobcachetest.Bytes(n+24*seed, blobcache.ChunkSize)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Drop(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	for n := range 24 {
		if err := s.PutChunk(t.Context(), alive, 100+n, blobcachetest.Bytes(100+n, blobcache.ChunkSize)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 24 {
		for _, n := range []int{n, 100 + n} {
			p, err := s.GetChunk(t.Context(), alive, n, nil)
			if err != nil || !bytes.Equal(p, blobcachetest.Bytes(n, blobcache.ChunkSize)) {
				t.Fatalf("chunk %d after Drop: %d bytes, %v", n, len(p), err)
			}
		}
	}
}

func TestOpenBadgerRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	shared := filepath.Join(parent, "shared")
	file := filepath.Join(parent, "file")
	foreign := filepath.Join(parent, "foreign")
	locked := filepath.Join(parent, "locked")
	future := filepath.Join(parent, "future")
	for _, err := range []error{
		os.Mkdir(shared, 0o750), os.Chmod(shared, 0o750), os.WriteFile(file, nil, 0o600), os.Mkdir(foreign, 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	openBadger(t, locked)
	s := openBadger(t, future)
	if ok, err := s.Swap(t.Context(), "format", []byte("2"), []byte("3")); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		dir  string
		o    blobcache.BadgerOptions
		want []string
	}{
		"no name":                              {"", small, []string{"no name"}},
		"a directory open to others":           {shared, small, []string{shared, "chmod 700"}},
		"a file":                               {file, small, []string{file}},
		"a directory below a file":             {filepath.Join(file, "x"), small, []string{file, "choose another"}},
		"a directory in use":                   {locked, small, []string{locked, fmt.Sprint("process ", os.Getpid())}},
		"a layout of a later version":          {future, small, []string{future, `"3"`, `"2"`}},
		"a disk with too little space to open": {filepath.Join(parent, "full"), blobcache.BadgerOptions{MemTableSize: 1 << 60, Floor: 1 << 62}, []string{"full", "free some space"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { wantRefused(t, test.dir, test.o, test.want...) })
	}
	t.Run("another user's directory", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("left out: only root can give a directory away")
		}
		if err := os.Chown(foreign, 12345, -1); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, foreign, small, foreign, "12345")
	})
}

// wantRefused opens a store, which must fail with an error that says the words.
func wantRefused(t *testing.T, dir string, o blobcache.BadgerOptions, words ...string) {
	t.Helper()
	s, err := blobcache.OpenBadger(dir, o)
	if err == nil {
		_ = s.Close()
		t.Fatal("opened")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v\ndoes not say %q", err, word)
		}
	}
}

func TestAClosedStoreAnswersWithErrors(t *testing.T) {
	t.Parallel()
	for kind := range diskStores {
		s, ctx := openDisk(t, kind, filepath.Join(t.TempDir(), "cache")), t.Context()
		a := blobcachetest.ID("a")
		if err := s.PutChunk(ctx, a, 0, make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, chunkErr := s.GetChunk(ctx, a, 0, nil)
		_, getErr := s.Get(ctx, "k")
		_, swapErr := s.Swap(ctx, "k", nil, []byte("v"))
		_, bothErr := s.PutAndSwap(ctx, a, 0, []byte("x"), blobcache.Change{Key: "k", New: []byte("v")})
		var listErr, scanErr error
		for _, listErr = range s.Uploads(ctx) {
		}
		for _, scanErr = range s.Scan(ctx, "k") {
		}
		for call, err := range map[string]error{
			"PutChunk": s.PutChunk(ctx, a, 1, []byte("x")), "GetChunk": chunkErr, "Drop": s.Drop(ctx, a), "Barrier": s.Barrier(ctx),
			"Uploads": listErr, "Get": getErr, "Swap": swapErr, "Scan": scanErr, "PutAndSwap": bothErr,
		} {
			if err == nil {
				t.Errorf("%s of a closed store of %s succeeded", call, kind)
			}
		}
	}
}

func TestOpenBadgerCreatesAPrivateDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data", "cache")
	openBadger(t, dir)
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v; want mode 0700", info.Mode(), err)
	}
}

// TestACollectionWaitsForWhoeverReads: a value that was found in a file which is
// removed before it is read would be a blob that seems damaged.
func TestACollectionWaitsForWhoeverReads(t *testing.T) {
	t.Parallel()
	s := openBadger(t, filepath.Join(t.TempDir(), "cache"))
	chunk := blobcachetest.Bytes(1, blobcache.ChunkSize)
	dead, alive := blobcachetest.ID("dead"), blobcachetest.ID("alive")
	for n := range 24 {
		upload := dead
		if n%4 == 0 {
			upload = alive
		}
		if err := s.PutChunk(t.Context(), upload, n, chunk); err != nil {
			t.Fatal(err)
		}
	}
	if done, err := s.Swap(t.Context(), "blob/x", nil, []byte("a record")); !done || err != nil {
		t.Fatal(done, err)
	}
	dropped, reading, read := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		<-reading
		dropped <- s.Drop(context.Background(), dead)
	}()
	early := false
	err := s.ViewForTest("blob/x", func([]byte) {
		close(reading)
		select {
		case err := <-dropped:
			early = true
			dropped <- err
		case <-time.After(2 * time.Second):
		}
		close(read)
	})
	<-read
	if err := errors.Join(err, <-dropped); err != nil || early {
		t.Errorf("a value log was removed under a reader: %t, %v", early, err)
	}
	for n := 0; n < 24; n += 4 {
		if got, err := s.GetChunk(t.Context(), alive, n, nil); err != nil || !bytes.Equal(got, chunk) {
			t.Errorf("chunk %d: %d bytes, %v", n, len(got), err)
		}
	}
}
