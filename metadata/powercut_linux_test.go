package metadata_test

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"pushproxy/disk/disktest"
	"pushproxy/metadata"
)

// TestWhatADyingDiskTookIsNotAcknowledged: ext4 that was shut down, or whose
// journal was aborted, may report an fsync as done whose blocks it did not keep.
func TestWhatADyingDiskTookIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	d := disktest.Small(t, 512<<20)
	all, late := 0, 0
	for range 16 {
		before, after := swapUntilCut(t, d)
		d.Restore()
		kv, err := metadata.OpenBadger(t.Context(), filepath.Join(d.Dir, "meta"), metadata.BadgerOptions{Floor: -1})
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range append(before, after...) {
			if value, err := kv.Get(t.Context(), key); err != nil || string(value) != string(cutValue(key)) {
				t.Errorf("acknowledged and lost, %d of %d before the disk died: %d bytes, %v", i+1, len(before), len(value), err)
			}
		}
		if err := kv.Close(); err != nil {
			t.Fatal(err)
		}
		all, late = all+len(before)+len(after), late+len(after)
	}
	if all == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("%d were acknowledged, %d of them when the disk had died", all, late)
}

// swapUntilCut returns the keys that the process on the disk said were stored
// before the power was cut, and later.
func swapUntilCut(t *testing.T, d *disktest.Disk) (before, after []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), powerCutChild+"="+d.Dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	keys := make(chan string, 1<<16)
	go func() {
		defer close(keys)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			keys <- scan.Text()
		}
	}()
	for range 10 {
		key, ok := <-keys
		if !ok {
			t.Fatalf("the process ended: %v", cmd.Wait())
		}
		before = append(before, key)
	}
	// In the middle of the work.
	<-time.After(rand.N(10 * time.Millisecond))
	for range len(keys) {
		before = append(before, <-keys)
	}
	d.CutPower()
	// It notices by itself, or dies of it.
	stop := time.AfterFunc(100*time.Millisecond, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	for key := range keys {
		after = append(after, key)
	}
	_ = cmd.Wait()
	return before, after
}
