//go:build linux

package blobcache_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// crashDir names the variable that makes the test binary the process to kill,
// and storeKind the one that says which of diskStores it uses.
const (
	crashDir  = "BLOBCACHE_TEST_CRASH_DIR"
	storeKind = "BLOBCACHE_TEST_STORE"
)

// crashBlob is what the killed process pushes; crashCheckpoint of it is under
// a checkpoint, and crashSmall is committed before it starts.
var (
	crashBlob  = blobcachetest.Bytes(7, 21<<20+12345)
	crashSmall = blobcachetest.Bytes(8, 3<<20)
)

const crashCheckpoint = 2<<20 + 777

func TestMain(m *testing.M) {
	for variable, program := range map[string]func(dir string) error{
		crashDir: pushUntilKilled, replaceDir: replaceUntilKilled, powerCutDir: pushBehindBarriers, waitingDir: fillMemtables,
	} {
		if dir := os.Getenv(variable); dir != "" {
			if err := program(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

// pushUntilKilled tells on standard output what it has done and never ends by
// itself once it has written everything.
func pushUntilKilled(dir string) error {
	s, err := diskStores[os.Getenv(storeKind)](dir)
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
	for kind := range diskStores {
		// Before a chunk, between chunks, behind a stored offset.
		for _, writes := range []int{0, 3, 100, 192} {
			t.Run(fmt.Sprintf("%s, killed after %d writes", kind, writes), func(t *testing.T) {
				t.Parallel()
				resumeKilled(t, kind, writes)
			})
		}
	}
}

func resumeKilled(t *testing.T, kind string, writes int) {
	dir := filepath.Join(t.TempDir(), "cache")
	id := killAfter(t, crashDir, kind, dir, writes)
	s := openDisk(t, kind, dir)
	c := blobcache.New(s, s)
	wantStored(t, c, crashSmall)
	orphan := blobcachetest.ID("orphan")
	if err := s.PutChunk(t.Context(), orphan, 0, blobcachetest.Bytes(1, 100<<10)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Sweep(t.Context(), time.Hour); n != 1 || err != nil {
		t.Errorf("Sweep: %d uploads, %v; want the orphan", n, err)
	}
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
	if writes == 100 {
		// The chunk of the checkpoint has been replaced since.
		if err := u.Rollback(t.Context()); err != nil {
			t.Fatalf("Rollback: %v", err)
		}
	}
	if _, err := u.Write(crashBlob[u.Offset():]); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), digest.FromBytes(crashBlob)); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	wantStored(t, c, crashBlob)
}

// replaceDir names the variable that makes the test binary replace chunks until
// it is killed.
const replaceDir = "BLOBCACHE_TEST_REPLACE_DIR"

// replaced returns the versions of the chunk that is replaced.
func replaced(version int) []byte { return blobcachetest.Bytes(version, 600_000+version*100_000) }

func replaceUntilKilled(dir string) error {
	s, err := diskStores[os.Getenv(storeKind)](dir)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if err := s.PutChunk(context.Background(), blobcachetest.ID("a"), 0, replaced(i%4)); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func TestAChunkIsWholeWheneverItsReplacementIsKilled(t *testing.T) {
	t.Parallel()
	for kind := range diskStores {
		dir := filepath.Join(t.TempDir(), kind)
		for round := range 6 {
			killAfter(t, replaceDir, kind, dir, 5+round)
			s, err := diskStores[kind](dir)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.GetChunk(t.Context(), blobcachetest.ID("a"), 0, nil)
			whole := false
			for version := range 4 {
				whole = whole || bytes.Equal(got, replaced(version))
			}
			if err != nil || !whole {
				t.Errorf("%s, round %d: %d bytes, %v; want one of the versions", kind, round, len(got), err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killAfter runs the test binary with the variable, kills it without notice after
// its first line and so many more, and returns the first one.
func killAfter(t *testing.T, variable, kind, dir string, writes int) (id string) {
	t.Helper()
	lines, kill := runUntil(t, variable, kind, dir, writes+1)
	kill()
	return lines[0]
}

// runUntil runs the test binary with the variable until it has written so many
// lines. It goes on until kill.
func runUntil(t *testing.T, variable, kind, dir string, n int) (lines []string, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+dir, storeKind+"="+kind)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for scan := bufio.NewScanner(out); len(lines) < n; lines = append(lines, scan.Text()) {
		if !scan.Scan() {
			t.Fatalf("the process ended after %d lines: %v: %s", len(lines), cmd.Wait(), said.Bytes())
		}
	}
	return lines, func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // "signal: killed"
	}
}
