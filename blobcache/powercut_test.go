//go:build linux

package blobcache_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
	"pushproxy/disk/disktest"
)

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v: %s", name, args, err, out)
	}
}

// powerCutDir names the variable that makes the test binary the process on the
// disk that loses power.
const powerCutDir = "BLOBCACHE_TEST_POWER_CUT_DIR"

// powerCutBlobs returns the blobs of a step: one of chunks in the value log, and
// as many small ones as make badger change its memtable among them.
func powerCutBlobs(step int) (blobs [][]byte) {
	blobs = append(blobs, blobcachetest.Bytes(step*100, 2<<20))
	for i := range 24 {
		blobs = append(blobs, blobcachetest.Bytes(step*100+1+i, 50<<10))
	}
	return blobs
}

// pushBehindBarriers writes a line to standard output when a step's blobs are
// durable, and after every third step when a sweep has moved what it keeps.
func pushBehindBarriers(dir string) error {
	o := blobcache.BadgerOptions{Floor: 32 << 20, ValueLogFileSize: 4 << 20, MemTableSize: 1 << 20}
	s, err := blobcache.OpenFiles(dir, blobcache.FilesOptions{BadgerOptions: o, InBadger: os.Getenv(storeKind) == "badger"})
	if err != nil {
		return err
	}
	ctx, c := context.Background(), blobcache.New(s, s)
	push := func(p []byte) (digest.Digest, error) {
		u, err := c.Begin(ctx, "", "")
		if err == nil {
			_, err = u.Write(p)
		}
		if err == nil {
			err = u.Commit(ctx, digest.FromBytes(p))
		}
		return digest.FromBytes(p), err
	}
	for step := 1; ; step++ {
		dead, err := push(blobcachetest.Bytes(-step, 3<<20))
		if err == nil {
			err = c.Remove(ctx, dead)
		}
		var stored []digest.Digest
		for _, p := range powerCutBlobs(step) {
			if err == nil {
				dead, err = push(p)
				stored = append(stored, dead)
			}
		}
		if err == nil {
			err = c.Barrier(ctx, stored...)
		}
		fmt.Println(step)
		if err == nil && step%3 == 0 {
			_, err = c.Sweep(ctx, time.Hour)
			fmt.Println(step)
		}
		if err != nil {
			return err
		}
	}
}

func TestWhatIsBehindABarrierSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	for kind, after := range map[string][]int{"badger": {2, 4, 7, 8}, "files": {1, 4, 8}} {
		for _, lines := range after {
			t.Run(fmt.Sprintf("%s, after %d lines", kind, lines), func(t *testing.T) {
				t.Parallel()
				surviveCut(t, kind, lines)
			})
		}
	}
}

func surviveCut(t *testing.T, kind string, lines int) {
	small := disktest.Small(t, 256<<20)
	dir := filepath.Join(small.Dir, "cache")
	said, kill := runUntil(t, powerCutDir, kind, dir, lines)
	steps, err := strconv.Atoi(said[lines-1])
	if err != nil {
		t.Fatal(err)
	}
	small.CutPower()
	kill()
	small.Restore()
	s := openDisk(t, kind, dir)
	c := blobcache.New(s, s)
	for step := 1; step <= steps; step++ {
		for _, p := range powerCutBlobs(step) {
			wantStored(t, c, p)
		}
	}
}

// waitingDir names the variable that makes the test binary the process whose
// memtables wait when the power is cut.
const waitingDir = "BLOBCACHE_TEST_WAITING_DIR"

func waitingBlob(i int) []byte { return blobcachetest.Bytes(i, 3000) }

const waitingBlobs = 750

// fillMemtables stores blobs that fill two memtables and begin a third, keeps
// badger from making tables of them, and writes a line when all are durable.
func fillMemtables(dir string) error {
	s, err := blobcache.OpenBadger(dir, blobcache.BadgerOptions{Floor: 1 << 20, ValueLogFileSize: 4 << 20, MemTableSize: 1 << 20})
	if err != nil {
		return err
	}
	// Badger takes no name that is there, and tries the next one a second later.
	for i := range 200 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d.sst", i+1)), nil, 0o600); err != nil {
			return err
		}
	}
	ctx, c := context.Background(), blobcache.New(s, s)
	var stored []digest.Digest
	for i := range waitingBlobs {
		u, err := c.Begin(ctx, "", "")
		if err == nil {
			_, err = u.Write(waitingBlob(i))
		}
		if err == nil {
			err = u.Commit(ctx, digest.FromBytes(waitingBlob(i)))
		}
		if err != nil {
			return err
		}
		stored = append(stored, digest.FromBytes(waitingBlob(i)))
	}
	if err := c.Barrier(ctx, stored...); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	fmt.Println(len(logs))
	<-time.After(time.Minute)
	return err
}

// TestMemtablesThatWaitSurviveAPowerCut: badger's own Sync is about the newest
// only.
func TestMemtablesThatWaitSurviveAPowerCut(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 256<<20)
	dir := filepath.Join(small.Dir, "cache")
	said, kill := runUntil(t, waitingDir, "badger", dir, 1)
	// The one in use and the next one's file are two.
	if n, err := strconv.Atoi(said[0]); err != nil || n < 4 {
		t.Fatalf("there are %d memtables, want two that wait", n)
	}
	small.CutPower()
	kill()
	small.Restore()
	s, err := blobcache.OpenBadger(dir, blobcache.BadgerOptions{Floor: 1 << 20, ValueLogFileSize: 4 << 20, MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	c := blobcache.New(s, s)
	for i := range waitingBlobs {
		wantStored(t, c, waitingBlob(i))
	}
}
