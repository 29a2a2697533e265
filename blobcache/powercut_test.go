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

const powerCutBlobs = 30

// powerCutBlob returns a blob of 2 MiB or 3000 bytes.
func powerCutBlob(i int) []byte { return blobcachetest.Bytes(i, []int{2 << 20, 3000}[i%2]) }

// pushBehindBarriers tells on standard output how many blobs are durable. It
// sweeps others away meanwhile, which moves the durable ones.
func pushBehindBarriers(dir string) error {
	s, err := blobcache.OpenBadger(dir, blobcache.BadgerOptions{Floor: 32 << 20, ValueLogFileSize: 4 << 20, MemTableSize: 1 << 20})
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
	for i := range powerCutBlobs {
		dead, err := push(blobcachetest.Bytes(1000+i, 3<<20))
		if err == nil {
			err = c.Remove(ctx, dead)
		}
		var d digest.Digest
		if err == nil {
			d, err = push(powerCutBlob(i))
		}
		if err == nil {
			err = c.Barrier(ctx, d)
		}
		if err != nil {
			return err
		}
		fmt.Println(i + 1)
		if i%5 == 4 {
			if _, err := c.Sweep(ctx, time.Hour); err != nil {
				return err
			}
		}
	}
	fmt.Println("end")
	select {}
}

func TestWhatIsBehindABarrierSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	for _, lines := range []int{7, 16, powerCutBlobs + 1} {
		t.Run(fmt.Sprintf("after %d lines", lines), func(t *testing.T) {
			t.Parallel()
			dir, image := smallDisk(t, 256<<20)
			mount := filepath.Dir(dir)
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), powerCutDir+"="+dir)
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
			cutPower(t, mount)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			run(t, "umount", mount)
			run(t, "mount", "-o", "loop", image, mount)
			s := openBadger(t, dir)
			c := blobcache.New(s, s)
			for i := range min(lines, powerCutBlobs) {
				wantStored(t, c, powerCutBlob(i))
			}
		})
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
	noLogFlush := uint32(2)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&noLogFlush))); errno != 0 {
		t.Fatalf("shutdown of %s: %v", mount, errno)
	}
}
