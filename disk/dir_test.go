package disk_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pushproxy/disk"
)

// sizes are those of a small database on a disk of which nothing stays free.
var sizes = disk.Sizes{Floor: -1, Memtable: 4 << 20, Log: 16 << 20}

// open opens a directory in which nothing is, and closes it with the test.
func open(t *testing.T, dir string, s disk.Sizes) *disk.Dir {
	t.Helper()
	d, err := disk.Open(dir, s, opened)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, d) })
	return d
}

func opened(*disk.Dir) error { return nil }

func shut(t *testing.T, d *disk.Dir) {
	t.Helper()
	if err := d.Close(func() error { return nil }); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	t.Parallel()
	type refusal struct {
		name, dir string
		make      func(t *testing.T, dir string)
		want      string
	}
	cases := []refusal{
		{"without a name", "", func(*testing.T, string) {}, "no name"},
		{"open to other users", "db", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o750), os.Chmod(dir, 0o750)) }, "chmod 700 "},
		{"not a directory", "db", func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, "is not a directory"},
		{"below a file", "file/db", func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Dir(dir), nil, 0o600)) }, "choose another data_dir"},
		{"in use", "db", func(t *testing.T, dir string) { open(t, dir, sizes) }, fmt.Sprintf("in use by process %d;", os.Getpid())},
	}
	// Nothing is unwritable to root, and nobody else can give a directory away.
	if os.Geteuid() == 0 {
		cases = append(cases, refusal{"of another user", "db", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700), os.Chown(dir, 12345, 12345))
		}, "belongs to user 12345"})
	} else {
		cases = append(cases, refusal{"not writable", "db", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o500)) }, "not writable"})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := c.dir
			if dir != "" {
				dir = filepath.Join(t.TempDir(), dir)
			}
			c.make(t, dir)
			_, err := disk.Open(dir, sizes, func(*disk.Dir) error {
				t.Error("it was opened")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v; want an error that names the directory and says %q", err, c.want)
			}
		})
	}
}

func TestANewDirectoryIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data", "db")
	open(t, dir, sizes)
	for _, dir := range []string{dir, filepath.Dir(dir)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v, want mode 0700", dir, info.Mode(), err)
		}
	}
}

func TestADirectoryIsForOneDatabaseAtATime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "db")
	first := open(t, dir, sizes)
	var inUse *disk.InUseError
	if _, err := disk.Open(dir, sizes, opened); !errors.As(err, &inUse) || inUse.Dir != dir {
		t.Errorf("got %v, want an InUseError of the directory", err)
	}
	// A process that was started meanwhile may have all open files for a moment.
	child := exec.CommandContext(t.Context(), "sleep", "30")
	d, err := os.Open(dir)
	must(t, err)
	child.ExtraFiles = []*os.File{d}
	must(t, child.Start(), d.Close())
	shut(t, first)
	if _, err := os.Lstat(filepath.Join(dir, "LOCK")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that nobody has still says who has it: %v", err)
	}
	open(t, dir, sizes)
	must(t, child.Process.Kill())
	_ = child.Wait()
}

func TestWhatCannotBeOpenedIsNotLeftLocked(t *testing.T) {
	t.Parallel()
	dir, broken := filepath.Join(t.TempDir(), "db"), errors.New("broken")
	calls := 0
	if _, err := disk.Open(dir, sizes, func(*disk.Dir) error { calls++; return broken }); !errors.Is(err, broken) || calls != 1 {
		t.Errorf("got %v after %d attempts, want the error of the only one", err, calls)
	}
	open(t, dir, sizes)
}

// TestALockThatAStartedProcessStillHoldsIsWaitedFor: between fork and exec every
// process has all open files of the one that starts it, locks included.
func TestALockThatAStartedProcessStillHoldsIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o700))
	d, err := os.Open(dir)
	must(t, err)
	must(t, syscall.Flock(int(d.Fd()), syscall.LOCK_EX))
	child := exec.CommandContext(t.Context(), "sleep", "0.2")
	child.ExtraFiles = []*os.File{d}
	must(t, child.Start(), d.Close())
	open(t, dir, sizes)
	must(t, child.Wait())
}

func TestAMemtableWithoutASizeIsTriedAgain(t *testing.T) {
	t.Parallel()
	calls := 0
	d, err := disk.Open(filepath.Join(t.TempDir(), "db"), sizes, func(*disk.Dir) error {
		if calls++; calls < 3 {
			return errors.New("while opening memtables: fid: 7: Create a new file")
		}
		return nil
	})
	must(t, err)
	shut(t, d)
	if calls != 3 {
		t.Errorf("%d attempts, want 3", calls)
	}
}

func TestADiskThatFailedStaysFailed(t *testing.T) {
	t.Parallel()
	for line, failed := range map[string]bool{
		"while msync: bad": true, "Error while curlf: input/output error": true, "fsync failed": true,
		"Invalid read: a file that is not there": false, "no space left on device": false,
	} {
		var w disk.Watch
		w.Infof("sync is %s", "fine")
		w.Warningf("sync is %s", "slow")
		w.Debugf("sync")
		if err := w.Err(); err != nil {
			t.Fatal(err)
		}
		w.Errorf("%s\n", line)
		var f *disk.FailedError
		if err := w.Err(); failed != (err != nil) || failed && (!errors.As(err, &f) || f.Reason != line) {
			t.Errorf("%q: got %v", line, err)
		}
	}
	var w disk.Watch
	w.Fail(syscall.EIO)
	w.Fail(syscall.ENOENT)
	w.Errorf("sync")
	if err := w.Err(); err == nil || !strings.Contains(err.Error(), syscall.EIO.Error()) {
		t.Errorf("got %v, want the first reason", err)
	}
}

func TestSpaceIsAdmittedAsFarAsTheFloor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, err := disk.Free(dir)
	must(t, err)
	for _, c := range []struct {
		name     string
		floor, n int64
		full     bool
	}{
		{"nothing has to stay free", -1, 1 << 62, false},
		{"there is enough", 1 << 10, 1 << 10, false},
		{"it would leave less than the floor", free / 2, free, true},
		{"there is less than the floor", 1 << 62, 0, true},
		{"no disk is so large", 1<<63 - 1, 1 << 62, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var full *disk.FullError
			err := (&disk.Space{Dir: dir, Floor: c.floor}).Take(c.n)
			if c.full != errors.As(err, &full) || !c.full && err != nil {
				t.Fatalf("got %v, full is %t", err, c.full)
			}
			if c.full && (full.Need < c.floor || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "free some space")) {
				t.Errorf("%v does not say where, and what to do", err)
			}
		})
	}
	s := disk.Space{Dir: dir, Floor: free / 4}
	if errors.Join(s.Take(free/2), s.Take(free/2)) != nil {
		t.Error("what was admitted and not written is held against what comes later, where the disk says that there is room")
	}
}

func TestOnlyAFullDiskIsExplainedAsOne(t *testing.T) {
	t.Parallel()
	s := disk.Space{Dir: "/some/where"}
	for err, isFull := range map[error]bool{
		syscall.ENOSPC: true, syscall.EDQUOT: true, syscall.EFBIG: true,
		&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}:     true,
		errors.New("while writing: no space left on device"):           true,
		&disk.FullError{Dir: "/else/where", Free: 1 << 20, Need: 1e12}: true,
		syscall.EIO: false, os.ErrNotExist: false,
	} {
		var full *disk.FullError
		got := s.Explain(err)
		if errors.As(got, &full) != isFull || !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	if s.Explain(nil) != nil {
		t.Error("nothing became an error")
	}
}
