package disk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"pushproxy/disk"
	"pushproxy/disk/disktest"
)

// blocks returns the bytes that a file takes of the disk, -1 if there is none.
func blocks(dir, name string) int64 {
	info, err := os.Lstat(filepath.Join(dir, name))
	if err != nil {
		return -1
	}
	return disk.Allocated(info)
}

// sparse makes a file of holes, as badger does before it maps it.
func sparse(t *testing.T, dir, name string, size int64) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600), os.Truncate(filepath.Join(dir, name), size))
}

func TestWhatBadgerMapsNextHasItsBlocks(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(disktest.Small(t, 64<<20).Dir, "db")
	d := open(t, dir, sizes)
	must(t, d.Ready(1, true))
	if n := blocks(dir, "00001.mem"); n != -1 {
		t.Errorf("before badger has made a memtable there is one, of %d bytes", n)
	}
	sparse(t, dir, "00007.mem", 8<<20)
	must(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("something"), 0o600))
	must(t, d.Ready(1, true))
	info, err := os.Stat(filepath.Join(dir, "00008.mem"))
	if err != nil || info.Size() != 0 || info.Mode().Perm() != 0o600 {
		t.Fatalf("the next memtable's file: %v, %v; want it empty, for us alone", info, err)
	}
	for name, want := range map[string]int64{"00007.mem": d.MemtableFile(), "00008.mem": d.MemtableFile(), "MANIFEST": 64 << 10} {
		if got := blocks(dir, name); got < want {
			t.Errorf("%s has blocks for %d bytes, want %d", name, got, want)
		}
	}
	// Badger takes it.
	must(t, os.Truncate(filepath.Join(dir, "00008.mem"), 8<<20), d.Ready(1, true))
	if got := blocks(dir, "00009.mem"); got < d.MemtableFile() {
		t.Errorf("after badger took one, the next has blocks for %d bytes", got)
	}
	shut(t, d)
	if blocks(dir, "00009.mem") != -1 || blocks(dir, "00008.mem") == -1 {
		t.Error("Close has to remove the file that badger did not take, and no other")
	}
}

func TestWithoutRoomForTheNextMemtableNothingGrows(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 64<<20)
	dir := filepath.Join(small.Dir, "db")
	d := open(t, dir, sizes)
	sparse(t, dir, "00001.mem", 8<<20)
	empty := small.Fill(1 << 20)
	var full *disk.FullError
	if err := d.Ready(100, true); !errors.As(err, &full) {
		t.Errorf("what grows: %v, want a FullError", err)
	}
	went := int64(0)
	for ; d.Ready(10<<10, false) == nil; went += 10 << 10 {
	}
	if went == 0 || went > d.MemtableFile()/4 {
		t.Errorf("%d bytes went on into a memtable whose file has room for %d", went, d.MemtableFile())
	}
	empty()
	must(t, d.Ready(100, true))
	if got := blocks(dir, "00002.mem"); got < d.MemtableFile() {
		t.Errorf("the next memtable has blocks for %d bytes", got)
	}
}

func TestWhatAKilledProcessKeptReadyIsRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "db")
	shut(t, open(t, dir, sizes))
	for _, name := range []string{"00002.mem", "spare"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(dir, "00001.mem"), []byte("log"), 0o600))
	open(t, dir, sizes)
	if blocks(dir, "00002.mem") != -1 || blocks(dir, "spare") != -1 || blocks(dir, "00001.mem") == -1 {
		t.Error("what is empty has to go, and nothing else")
	}
}

func TestADirectoryKeepsRoomForNames(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 64<<20)
	must(t, os.Mkdir(filepath.Join(small.Dir, "old"), 0o700))
	for _, name := range []string{"old", "new"} {
		dir := filepath.Join(small.Dir, name)
		open(t, dir, sizes)
		if info, err := os.Stat(dir); err != nil || info.Size() < 16<<10 {
			t.Errorf("%s: %v, %v; want 16 KiB or more", name, info.Size(), err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, ".grow*")); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left, %v", name, left, err)
		}
	}
}

func TestTheTailOfAValueLogIsMadeOnlyBehindWhatIsThere(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 64<<20)
	dir := filepath.Join(small.Dir, "db")
	d := open(t, dir, sizes)
	if last, err := d.Tail.Reserve(1, 1); !last || err != nil || !d.Tail.Lost() {
		t.Errorf("without a file: %t, %v; want that Find is needed", last, err)
	}
	data := bytes.Repeat([]byte("data"), 256<<10)
	name := filepath.Join(dir, "000002.vlog")
	must(t, os.WriteFile(filepath.Join(dir, "000001.vlog"), []byte("old"), 0o600), os.WriteFile(name, data, 0o600), os.Truncate(name, 32<<20))
	for round := range 2 {
		d.Tail.Find()
		if last, err := d.Tail.Reserve(1<<20, 1); last || err != nil || d.Tail.Lost() {
			t.Fatalf("round %d: %t, %v", round, last, err)
		}
		if got := blocks(dir, "000002.vlog"); got < 4<<20 || got > 12<<20 {
			t.Errorf("round %d: blocks for %d bytes", round, got)
		}
		if left := d.Tail.Left(); left > sizes.Log-2<<20 || left < sizes.Log-3<<20 {
			t.Errorf("round %d: %d bytes are left", round, left)
		}
		d.Tail.Forget()
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.HasPrefix(got, data) || len(bytes.Trim(got[len(data):], "\x00")) > 0 || len(got) != 32<<20 {
		t.Errorf("the file was changed: %d bytes, %v", len(got), err)
	}
	d.Tail.Find()
	if last, err := d.Tail.Reserve(sizes.Log, 1); !last || err != nil {
		t.Errorf("more than the file takes: %t, %v; want that Find is needed", last, err)
	}
	small.Fill(1 << 20)
	d.Tail.Find()
	if _, err := d.Tail.Reserve(30<<20, 1); !errors.Is(err, syscall.ENOSPC) || !d.Tail.Lost() {
		t.Errorf("on a full disk: %v, want its error", err)
	}
}

func TestCloseGivesUpOnADiskWithoutRoom(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 64<<20)
	dir := filepath.Join(small.Dir, "db")
	synctest.Test(t, func(t *testing.T) {
		d, err := disk.Open(dir, sizes, opened)
		must(t, err)
		room := make(chan struct{})
		trying := func() error { <-room; return nil }
		empty := small.Fill(1 << 20)
		var full *disk.FullError
		if err := d.Close(trying); !errors.As(err, &full) {
			t.Errorf("Close: %v, want a FullError", err)
		}
		var inUse *disk.InUseError
		if _, err := disk.Open(dir, sizes, opened); !errors.As(err, &inUse) {
			t.Errorf("the directory that badger still uses: %v, want that it is in use", err)
		}
		empty()
		close(room)
		must(t, d.Close(trying), d.Close(trying))
	})
}

func TestADatabaseIsNotOpenedWithoutRoom(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 64<<20)
	small.Fill(10 << 20)
	for floor, full := range map[int64]bool{-1: false, 5 << 20: false, 12 << 20: true, 1 << 40: true} {
		s := sizes
		s.Floor = floor
		d, err := disk.Open(filepath.Join(small.Dir, "db"), s, opened)
		if err == nil {
			shut(t, d)
		}
		var f *disk.FullError
		if errors.As(err, &f) != full || !full && err != nil {
			t.Errorf("floor %d: %v", floor, err)
		}
	}
}

func TestAFileSystemThatDiedIsNoticed(t *testing.T) {
	t.Parallel()
	small := disktest.Small(t, 64<<20)
	d, err := disk.Open(filepath.Join(small.Dir, "db"), sizes, opened)
	must(t, err, os.WriteFile(filepath.Join(small.Dir, "db", "MANIFEST"), []byte("something"), 0o600))
	if err := d.Watch.Alive(); err != nil {
		t.Errorf("of a disk that is well: %v", err)
	}
	small.CutPower()
	var failed *disk.FailedError
	if err := d.Watch.Alive(); !errors.As(err, &failed) || failed.Reason == "" {
		t.Errorf("of a disk that died: %v, want a *FailedError", err)
	}
	_ = d.Close(func() error { return nil })
	small.Restore()
	if err := errors.Join(d.Watch.Alive(), d.Watch.Err()); !errors.As(err, &failed) {
		t.Errorf("of a disk that died, later: %v, want a *FailedError", err)
	}
}

// It is not parallel: nobody else may need a file.
func TestWithoutFilesToOpenADiskHasNotFailed(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "db"), sizes)
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 0
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	err := d.Watch.Alive()
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	if !errors.Is(err, syscall.EMFILE) || d.Watch.Err() != nil {
		t.Errorf("got %v and %v, want an error for now", err, d.Watch.Err())
	}
}
