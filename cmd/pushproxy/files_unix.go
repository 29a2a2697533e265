//go:build unix

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// restrictFiles makes every file this process creates its owner's alone,
// whatever modes a library asks for.
func restrictFiles() { syscall.Umask(0o077) }

// ownerOf returns whose a file is.
func ownerOf(info fs.FileInfo) (uid, gid int) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid), int(s.Gid)
	}
	return os.Geteuid(), os.Getegid()
}

// chown gives a file back to its owner, which only root can.
func chown(path string, uid, gid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(path, uid, gid)
}

// ownAs gives what root made in somebody's directory to that somebody.
func ownAs(path, dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	uid, gid := ownerOf(info)
	return chown(path, uid, gid)
}

// writable reports whether this process may make files in dir, or in the
// nearest directory above it that exists.
func writable(dir string) bool {
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return unix.Access(dir, unix.W_OK|unix.X_OK) == nil
}
