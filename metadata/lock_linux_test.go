package metadata_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"pushproxy/metadata"
)

// TestALockThatAStartedProcessStillHoldsIsWaitedFor: between fork and exec every
// process has all open files of the one that starts it, locks included.
func TestALockThatAStartedProcessStillHoldsIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), "sleep", "0.2")
	child.ExtraFiles = []*os.File{d}
	if err := errors.Join(child.Start(), d.Close()); err != nil {
		t.Fatal(err)
	}
	s, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), child.Wait()); err != nil {
		t.Error(err)
	}
}
