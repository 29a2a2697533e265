//go:build !linux && !darwin

package blobcache

import (
	"io/fs"
	"math"
)

// noFollow is nothing here.
const noFollow = 0

// noSpace knows no such error here.
func noSpace(error) bool { return false }

// freeBytes knows no file system here: there is no floor.
func freeBytes(string) (int64, error) { return math.MaxInt64 / 2, nil }

// allocated knows only how long a file is.
func allocated(info fs.FileInfo) int64 { return info.Size() }

// foreignOwner knows no owners here.
func foreignOwner(fs.FileInfo) (uid int, foreign bool) { return 0, false }
