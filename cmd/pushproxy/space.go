//go:build linux || darwin

package main

import (
	"math"
	"syscall"
)

// freeBytes returns what an ordinary user may still store in dir's file system.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(min(uint64(s.Bavail)*uint64(s.Bsize), math.MaxInt64/2)), nil
}
