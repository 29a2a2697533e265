//go:build linux

package blobcache_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// crashDir names the variable that makes the test binary the process to kill.
const crashDir = "BLOBCACHE_TEST_CRASH_DIR"

// crashBlob is what the killed process pushes; crashCheckpoint of it is under
// a checkpoint, and crashSmall is committed before it starts.
var (
	crashBlob  = blobcachetest.Bytes(7, 21<<20+12345)
	crashSmall = blobcachetest.Bytes(8, 3<<20)
)

const crashCheckpoint = 2<<20 + 777

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := pushUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if dir := os.Getenv(powerCutDir); dir != "" {
		if err := pushBehindBarriers(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// pushUntilKilled tells on standard output what it has done and never ends by
// itself once it has written everything.
func pushUntilKilled(dir string) error {
	s, err := blobcache.OpenBadger(dir, small)
	if err != nil {
		return err
	}
	ctx, c := context.Background(), blobcache.New(s, s)
	first, err := c.Begin(ctx, "", "owner")
	if err != nil {
		return err
	}
	if _, err := first.Write(crashSmall); err != nil {
		return err
	}
	if err := first.Commit(ctx, digest.FromBytes(crashSmall)); err != nil {
		return err
	}
	u, err := c.Begin(ctx, "", "owner")
	if err != nil {
		return err
	}
	if _, err := u.Write(crashBlob[:crashCheckpoint]); err != nil {
		return err
	}
	if err := u.Checkpoint(ctx); err != nil {
		return err
	}
	fmt.Println(u.ID())
	for p := crashBlob[crashCheckpoint:]; len(p) > 0; {
		n := min(100_000, len(p))
		if _, err := u.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
		fmt.Println("written")
	}
	select {}
}

func TestKilledUploadResumesAtItsCheckpointOrLater(t *testing.T) {
	t.Parallel()
	// Before a chunk, between chunks, behind a stored offset.
	for _, writes := range []int{0, 3, 100, 192} {
		t.Run(fmt.Sprintf("killed after %d writes", writes), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "cache")
			id := killAfter(t, dir, writes)
			s := openBadger(t, dir)
			c := blobcache.New(s, s)
			wantStored(t, c, crashSmall)
			u, err := c.Resume(t.Context(), id)
			if err != nil {
				t.Fatalf("Resume: %v", err)
			}
			atLeast := int64(crashCheckpoint)
			if writes > 190 {
				atLeast = 16 << 20
			}
			if u.Offset() < atLeast || u.Base() != crashCheckpoint || u.Owner() != "owner" {
				t.Errorf("resumed at %d, checkpoint %d, owner %q; want %d or more, %d, owner", u.Offset(), u.Base(), u.Owner(), atLeast, crashCheckpoint)
			}
			if _, err := u.Write(crashBlob[u.Offset():]); err != nil {
				t.Fatal(err)
			}
			if err := u.Commit(t.Context(), digest.FromBytes(crashBlob)); err != nil {
				t.Fatalf("Commit: %v", err)
			}
			wantStored(t, c, crashBlob)
		})
	}
}

// killAfter runs pushUntilKilled, kills it without notice after some writes,
// and returns the upload's id.
func killAfter(t *testing.T, dir string, writes int) (id string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; i <= writes; i++ {
		if !lines.Scan() {
			t.Fatalf("the process ended after %d lines: %v", i, cmd.Wait())
		}
		if i == 0 {
			id = lines.Text()
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	return id
}
