//go:build linux || darwin

package blobcache_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

// bodyFiles returns the files of bodies in a store's directory.
func bodyFiles(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "files"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return paths
}

func TestBodiesOver64KiBAreFilesForTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openFiles(t, dir, blobcache.FilesOptions{BadgerOptions: small})
	c := blobcache.New(s, s)
	commit(t, c, blobcachetest.Bytes(1, 64<<10))
	if paths := bodyFiles(t, dir); len(paths) > 0 {
		t.Errorf("64 KiB are in %s", paths)
	}
	p := blobcachetest.Bytes(2, 64<<10+1)
	commit(t, c, p)
	paths := bodyFiles(t, dir)
	if len(paths) != 1 {
		t.Fatalf("more than 64 KiB are in %d files", len(paths))
	}
	for path, want := range map[string]fs.FileMode{paths[0]: 0o600, filepath.Dir(paths[0]): 0o700 | fs.ModeDir, filepath.Join(dir, "files"): 0o700 | fs.ModeDir} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if err := c.Remove(t.Context(), digest.FromBytes(p)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Sweep(t.Context(), 0); n != 1 || err != nil {
		t.Fatalf("Sweep: %d, %v", n, err)
	}
	if left := bodyFiles(t, dir); len(left) > 0 {
		t.Errorf("after Sweep: %s", left)
	}
}

func TestASmallBodyMovesIntoAFileWhenItGrows(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openFiles(t, dir, blobcache.FilesOptions{BadgerOptions: small})
	c := blobcache.New(s, s)
	p := blobcachetest.Bytes(1, 2<<20+5)
	u, err := c.Begin(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(p[:1000]); err != nil {
		t.Fatal(err)
	}
	if err := u.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if paths := bodyFiles(t, dir); len(paths) > 0 {
		t.Errorf("1000 bytes are in %s", paths)
	}
	if _, err := u.Write(p[1000:]); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), digest.FromBytes(p)); err != nil {
		t.Fatal(err)
	}
	wantStored(t, c, p)
	if left := blobcachetest.Collect(t, s.Badger.Uploads(t.Context())); len(left) > 0 {
		t.Errorf("left in badger: %s", left)
	}
	if got := blobcachetest.Collect(t, s.Uploads(t.Context())); len(got) != 1 {
		t.Errorf("listed as %s", got)
	}
}

func TestUploadsGoOnAndBlobsStayWhenTheStorageChanges(t *testing.T) {
	t.Parallel()
	p := blobcachetest.Bytes(1, 3<<20+300<<10)
	for _, begun := range []int{0, 1000, 100 << 10, 1<<20 + 1000, 2<<20 + 100<<10} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d bytes, first in badger %t", begun, first), func(t *testing.T) {
				t.Parallel()
				changeStorage(t, p, begun, first)
			})
		}
	}
}

// changeStorage sends p in four requests, with a change of the storage before
// each but the first.
func changeStorage(t *testing.T, p []byte, begun int, inBadger bool) {
	dir := filepath.Join(t.TempDir(), "cache")
	o := blobcache.FilesOptions{BadgerOptions: small, InBadger: inBadger}
	whole := blobcachetest.Bytes(2, 1<<20+100<<10)
	id := ""
	for _, end := range []int{begun, begun + 300<<10, begun + 1<<20, len(p)} {
		s, err := blobcache.OpenFiles(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		c := blobcache.New(s, s)
		var u *blobcache.Upload
		if id == "" {
			commit(t, c, whole)
			u, err = c.Begin(t.Context(), "", "")
		} else {
			u, err = c.Resume(t.Context(), id)
		}
		if err != nil {
			t.Fatal(err)
		}
		id = u.ID()
		if _, err = u.Write(p[u.Offset():end]); err == nil {
			err = u.Checkpoint(t.Context())
		}
		if err == nil && end == len(p) {
			err = u.Commit(t.Context(), digest.FromBytes(p))
			wantStored(t, c, p)
		}
		u.Release()
		wantStored(t, c, whole)
		if n := len(blobcachetest.Collect(t, s.Uploads(t.Context()))); n > 2 {
			t.Errorf("%d uploads are listed", n)
		}
		if err = errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		o.InBadger = !o.InBadger
	}
	s := openFiles(t, dir, o)
	c := blobcache.New(s, s)
	wantStored(t, c, p)
	for _, blob := range [][]byte{p, whole} {
		if err := c.Remove(t.Context(), digest.FromBytes(blob)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Sweep(t.Context(), 0); n != 2 || err != nil {
		t.Errorf("Sweep: %d, %v; want both uploads", n, err)
	}
	if left := bodyFiles(t, dir); len(left) > 0 || len(blobcachetest.Collect(t, s.Uploads(t.Context()))) > 0 {
		t.Errorf("after Sweep: %s", left)
	}
}

func TestBodiesInBadgerMakeNoFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	s := openFiles(t, dir, blobcache.FilesOptions{BadgerOptions: small, InBadger: true})
	commit(t, blobcache.New(s, s), blobcachetest.Bytes(1, 2<<20))
	if _, err := os.Lstat(filepath.Join(dir, "files")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("files: %v, want none", err)
	}
}

func TestDamagedBodyFilesAreNeverServed(t *testing.T) {
	t.Parallel()
	const slot = 1<<20 + 64
	p := blobcachetest.Bytes(1, 3<<20+100<<10)
	for name, damage := range map[string]func(f *os.File) error{
		"a bit of a chunk":         func(f *os.File) error { return flip(f, slot+8+5000) },
		"a chunk's length":         func(f *os.File) error { return flip(f, 2*slot+2) },
		"which file has the chunk": func(f *os.File) error { return flip(f, 2*slot) },
		"a header is zero":         func(f *os.File) error { _, err := f.WriteAt(make([]byte, 8), slot); return err },
		"another chunk's bytes": func(f *os.File) error {
			other := make([]byte, slot)
			_, err := f.ReadAt(other, slot)
			return errors.Join(err, after(f.WriteAt(other, 2*slot)))
		},
		"cut in a chunk":  func(f *os.File) error { return f.Truncate(2*slot + 700) },
		"cut in a header": func(f *os.File) error { return f.Truncate(3*slot + 3) },
		"empty":           func(f *os.File) error { return f.Truncate(0) },
		"gone":            func(f *os.File) error { return os.Remove(f.Name()) },
		"a link to another file": func(f *os.File) error {
			return errors.Join(os.Rename(f.Name(), f.Name()+"x"), os.Symlink(f.Name()+"x", f.Name()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "cache")
			s := openFiles(t, dir, blobcache.FilesOptions{BadgerOptions: small})
			c := blobcache.New(s, s)
			commit(t, c, p)
			f, err := os.OpenFile(bodyFiles(t, dir)[0], os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := damage(f); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(name, "link") {
				b, err := c.Open(t.Context(), digest.FromBytes(p))
				if err != nil {
					t.Fatal(err)
				}
				if n, err := b.Read(make([]byte, 1)); n > 0 || err == nil {
					t.Error("a link was followed")
				}
				return
			}
			if readAll(t, c, [][]byte{p}) != 1 {
				t.Error("the damage was not noticed")
			}
			commit(t, c, p)
			wantStored(t, c, p)
		})
	}
}

func after(_ int, err error) error { return err }

func flip(f *os.File, at int64) error {
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 0x80
	return after(f.WriteAt(b[:], at))
}

func TestOpenFilesRefusesPathsThatLeadElsewhere(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(files, elsewhere string) error{
		"files is a link": func(files, elsewhere string) error { return os.Symlink(elsewhere, files) },
		"files is a file": func(files, _ string) error { return os.WriteFile(files, nil, 0o600) },
		"a directory is": func(files, elsewhere string) error {
			return errors.Join(os.Mkdir(files, 0o700), os.Symlink(elsewhere, filepath.Join(files, "ab")))
		},
		"files open to others": func(files, _ string) error { return errors.Join(os.Mkdir(files, 0o700), os.Chmod(files, 0o755)) },
	} {
		dir, elsewhere := filepath.Join(t.TempDir(), "cache"), t.TempDir()
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(elsewhere, 0o700), prepare(filepath.Join(dir, "files"), elsewhere)); err != nil {
			t.Fatal(err)
		}
		for _, inBadger := range []bool{true, false} {
			s, err := blobcache.OpenFiles(dir, blobcache.FilesOptions{BadgerOptions: small, InBadger: inBadger})
			if err == nil {
				_ = s.Close()
				t.Errorf("%s: opened", name)
			} else if !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v does not name the directory", name, err)
			}
		}
	}
}

func TestAWriteDoesNotFollowALink(t *testing.T) {
	t.Parallel()
	dir, victim := filepath.Join(t.TempDir(), "cache"), filepath.Join(t.TempDir(), "victim")
	s := openFiles(t, dir, blobcache.FilesOptions{BadgerOptions: small})
	id, p := blobcachetest.ID("a"), blobcachetest.Bytes(1, 100<<10)
	path := filepath.Join(dir, "files", id[:2], id)
	if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), os.MkdirAll(filepath.Dir(path), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{path, path + ".2"} {
		if err := os.Symlink(victim, link); err != nil {
			t.Fatal(err)
		}
		_ = s.PutChunk(t.Context(), id, 0, p)
		if err := s.PutChunk(t.Context(), id, 0, p); err == nil {
			t.Errorf("a chunk went through the link %s", link)
		}
		if text, err := os.ReadFile(victim); string(text) != "precious" {
			t.Errorf("the link's target is %q, %v", text, err)
		}
		if err := s.Drop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}
