package disktest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"
)

// Disk is an ext4 file system of its own, mounted until the test ends.
type Disk struct {
	Dir string // where it is mounted

	t     *testing.T
	image string
}

// Small makes a disk of so many bytes. Without root, loop devices and mkfs.ext4 the
// test is skipped, except in CI.
func Small(t *testing.T, bytes int64) *Disk {
	t.Helper()
	d := &Disk{Dir: filepath.Join(t.TempDir(), "disk"), t: t, image: filepath.Join(t.TempDir(), "image")}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, bytes), os.Mkdir(d.Dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", d.image}, {"mount", "-o", "loop", d.image, d.Dir}} {
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		if err != nil {
			t.Skipf("needs root, loop devices and mkfs.ext4: %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { d.run("umount", d.Dir) })
	return d
}

// CutPower makes the file system forget what is not on the disk: EXT4_IOC_SHUTDOWN
// without a flush of the journal. Whoever uses it gets errors until Restore.
func (d *Disk) CutPower() {
	d.t.Helper()
	f, err := os.Open(d.Dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	// What was created and removed is on the disk, without the content.
	if err := f.Sync(); err != nil {
		d.t.Fatal(err)
	}
	noLogFlush := uint32(2)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&noLogFlush))); errno != 0 {
		d.t.Fatalf("shutdown of %s: %v", d.Dir, errno)
	}
}

// Restore mounts the disk again after CutPower. Nobody may use it any more.
func (d *Disk) Restore() {
	d.t.Helper()
	d.run("umount", d.Dir)
	d.run("mount", "-o", "loop", d.image, d.Dir)
}

// Fill takes all but so many bytes of what is free, until the returned function
// gives them back.
func (d *Disk) Fill(but int64) (empty func()) {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.Dir, &s); err != nil {
		d.t.Fatal(err)
	}
	f, err := os.CreateTemp(d.Dir, "filler-")
	if err == nil {
		err = errors.Join(syscall.Fallocate(int(f.Fd()), 0, 0, int64(s.Bavail)*s.Bsize-but), f.Close())
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			d.t.Error(err)
		}
	}
}

func (d *Disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Errorf("%s %v: %v: %s", name, args, err, out)
	}
}
