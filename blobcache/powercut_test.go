//go:build linux

package blobcache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// smallDisk returns a directory on an ext4 file system of its own, and that
// file system's image.
func smallDisk(t *testing.T, bytes int64) (dir, image string) {
	t.Helper()
	image, mount := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, bytes), os.Mkdir(mount, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, mount}} {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		if err != nil {
			t.Skipf("needs root, loop devices and mkfs.ext4: %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { run(t, "umount", mount) })
	return filepath.Join(mount, "cache"), image
}

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
	dir, image := smallDisk(t, 256<<20)
	mount := filepath.Dir(dir)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), powerCutDir+"="+dir, storeKind+"="+kind)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	for i := range lines {
		if !scan.Scan() {
			t.Fatalf("the process ended after %d lines", i)
		}
	}
	steps, err := strconv.Atoi(scan.Text())
	if err != nil {
		t.Fatal(err)
	}
	cutPower(t, mount)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	run(t, "umount", mount)
	run(t, "mount", "-o", "loop", image, mount)
	s := openDisk(t, kind, dir)
	c := blobcache.New(s, s)
	for step := 1; step <= steps; step++ {
		for _, p := range powerCutBlobs(step) {
			wantStored(t, c, p)
		}
	}
}

// cutPower makes ext4 forget what is not on the disk: EXT4_IOC_SHUTDOWN without
// a flush of the journal.
func cutPower(t *testing.T, mount string) {
	t.Helper()
	f, err := os.Open(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// What was created and removed is on the disk, without the content.
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	noLogFlush := uint32(2)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&noLogFlush))); errno != 0 {
		t.Fatalf("shutdown of %s: %v", mount, errno)
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
	dir, image := smallDisk(t, 256<<20)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), waitingDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	if !scan.Scan() {
		t.Fatal("the process ended")
	}
	// The one in use and the next one's file are two.
	if n, err := strconv.Atoi(scan.Text()); err != nil || n < 4 {
		t.Fatalf("there are %d memtables, want two that wait", n)
	}
	cutPower(t, filepath.Dir(dir))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	run(t, "umount", filepath.Dir(dir))
	run(t, "mount", "-o", "loop", image, filepath.Dir(dir))
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
