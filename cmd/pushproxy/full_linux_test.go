package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/disk/disktest"
	"pushproxy/metadata"
)

// fullDiskDir names the variable that makes the test binary the process whose
// disk others fill.
const fullDiskDir = "PUSHPROXY_TEST_FULL_DISK_DIR"

// TestWritersOnADiskThatOthersFillGetErrorsAndLoseNothing has no floor: badger
// meets the end of the disk in the middle of everything that it does, again and
// again. A fault would end the process.
func TestWritersOnADiskThatOthersFillGetErrorsAndLoseNothing(t *testing.T) {
	if dir := os.Getenv(fullDiskDir); dir != "" {
		backMappings()
		if err := writeOnAFullDisk(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	for _, kind := range []string{"blobs", "metadata"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := disktest.Small(t, 256<<20).Dir
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWritersOnADiskThatOthersFillGetErrorsAndLoseNothing$", "-test.v")
			cmd.Env = append(os.Environ(), fullDiskDir+"="+filepath.Join(dir, kind))
			out, err := cmd.CombinedOutput()
			t.Logf("%.4000s", out)
			if err != nil {
				t.Errorf("the process ended: %v", err)
			}
		})
	}
}

func writeOnAFullDisk(ctx context.Context, dir string) error {
	if filepath.Base(dir) == "metadata" {
		return factsOnAFullDisk(ctx, dir)
	}
	return blobsOnAFullDisk(ctx, dir)
}

// others take all that is free of the disk and give it back, so many times; each
// time they keep it until a writer has failed, or gets along for a while with the
// room that it has reserved.
func others(dir string, times int, failed func() int64) error {
	name := filepath.Join(filepath.Dir(dir), "others")
	for range times {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		free, err := diskFree(dir)
		if err != nil {
			return err
		}
		_ = allocate(f, free*9/10)
		before := failed()
		for began := time.Now(); ; {
			past, now := time.Since(began), failed()
			if past > 300*time.Millisecond && now > before || past > 2*time.Second && now > 0 || past > 20*time.Second {
				break
			}
			_, _ = f.Seek(0, io.SeekEnd)
			_, _ = f.Write(make([]byte, 64<<10))
			_, _ = f.Write(make([]byte, 4<<10))
		}
		if err := errors.Join(f.Close(), os.Remove(name)); err != nil {
			return err
		}
		<-time.After(200 * time.Millisecond)
	}
	return nil
}

func blobsOnAFullDisk(ctx context.Context, dir string) error {
	o := blobcache.FilesOptions{InBadger: true, BadgerOptions: blobcache.BadgerOptions{Floor: 1, ValueLogFileSize: 4 << 20, MemTableSize: 1 << 20}}
	s, err := blobcache.OpenFiles(dir, o)
	if err != nil {
		return err
	}
	c := blobcache.New(s, s)
	var mu sync.Mutex
	var errs atomic.Int64 // without mu: who has that may wait for the room that others give back
	kept, stop := map[digest.Digest]bool{}, make(chan struct{})
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(w)))
			for ended := false; !ended; {
				size := 512 + r.IntN(3<<10) // in the tree
				if r.IntN(8) == 0 {
					size = r.IntN(40<<10) * (1 + r.IntN(30)) // in the value log
				}
				d, err := pushBytes(ctx, c, blob(r.Uint64(), 512+size))
				mu.Lock()
				if err != nil {
					errs.Add(1)
				} else {
					kept[d] = true
				}
				// What is kept stays below half of the disk.
				for old := range kept {
					if len(kept) > 400 && old != d {
						delete(kept, old)
						_ = c.Remove(ctx, old)
					}
				}
				mu.Unlock()
				select {
				case <-stop:
					ended = true
				default:
				}
			}
		})
	}
	writers.Go(func() {
		for ended := false; !ended; {
			_, _ = c.Sweep(ctx, time.Minute)
			select {
			case <-stop:
				ended = true
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	err = others(dir, 8, errs.Load)
	close(stop)
	writers.Wait()
	// In use, and after a start.
	for range 2 {
		for d := range kept {
			b, openErr := c.Open(ctx, d)
			if openErr != nil {
				return fmt.Errorf("%s is lost: %w", d, openErr)
			}
			if _, err := io.Copy(io.Discard, b); err != nil {
				return fmt.Errorf("%s is lost: %w", d, err)
			}
			_ = b.Close()
		}
		if _, pushErr := pushBytes(ctx, c, blob(1, 100<<10)); pushErr != nil {
			return fmt.Errorf("with room again: %w", pushErr)
		}
		if err = errors.Join(err, s.Close()); err != nil {
			return err
		}
		if s, err = blobcache.OpenFiles(dir, o); err != nil {
			return err
		}
		c = blobcache.New(s, s)
	}
	err = s.Close()
	fmt.Printf("%d blobs are there, %d pushes failed\n", len(kept), errs.Load())
	if errs.Load() == 0 {
		return errors.New("the disk was never full")
	}
	return err
}

// blob returns bytes that do not compress and depend on the seed.
func blob(seed uint64, size int) []byte {
	p := bytes.Repeat([]byte{byte(seed)}, size)
	for i := 0; i+8 <= size; i += 512 {
		binary.BigEndian.PutUint64(p[i:], seed+uint64(i))
	}
	return p
}

func pushBytes(ctx context.Context, c *blobcache.Cache, p []byte) (digest.Digest, error) {
	d := digest.FromBytes(p)
	u, err := c.Begin(ctx, "", "")
	if err != nil {
		return d, err
	}
	defer u.Release()
	if _, err = u.Write(p); err == nil {
		err = u.Commit(ctx, d)
	}
	return d, err
}

func factsOnAFullDisk(ctx context.Context, dir string) error {
	kv, err := metadata.OpenBadger(ctx, dir, metadata.BadgerOptions{Floor: 1})
	if err != nil {
		return err
	}
	value := func(i int) []byte {
		if i%200 == 0 {
			return bytes.Repeat([]byte{byte(i)}, 1<<20+i%4096) // in the value log
		}
		return bytes.Repeat([]byte{byte(i)}, 100<<10)
	}
	var mu sync.Mutex
	var errs atomic.Int64
	kept, stop := map[int]bool{}, make(chan struct{})
	var writers sync.WaitGroup
	for w := range 32 {
		writers.Go(func() {
			var mine []int
			for i := w; ; i += 32 {
				done, err := kv.Swap(ctx, fmt.Sprint("key/", i), nil, value(i))
				mu.Lock()
				if err != nil {
					errs.Add(1)
				}
				kept[i] = err == nil && done
				mu.Unlock()
				if err == nil {
					mine = append(mine, i)
				} else {
					<-time.After(2 * time.Millisecond)
				}
				// What is kept stays below half of the disk. With an error it may be
				// gone or not, and is tried again.
				for err = nil; err == nil && len(mine) > 10; {
					old := mine[0]
					mu.Lock()
					delete(kept, old)
					mu.Unlock()
					if _, err = kv.Swap(ctx, fmt.Sprint("key/", old), value(old), nil); err == nil {
						mine = mine[1:]
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	err = others(dir, 8, errs.Load)
	close(stop)
	writers.Wait()
	for range 2 {
		n := 0
		for i, there := range kept {
			if !there {
				continue
			}
			if got, err := kv.Get(ctx, fmt.Sprint("key/", i)); err != nil || !bytes.Equal(got, value(i)) {
				return fmt.Errorf("key %d is lost: %d bytes, %w", i, len(got), err)
			}
			n++
		}
		fmt.Printf("%d records are there, %d writes failed\n", n, errs.Load())
		if err = errors.Join(err, kv.Close()); err != nil {
			return err
		}
		if kv, err = metadata.OpenBadger(ctx, dir, metadata.BadgerOptions{Floor: 1}); err != nil {
			return err
		}
	}
	err = kv.Close()
	if errs.Load() == 0 {
		return errors.New("the disk was never full")
	}
	return err
}
