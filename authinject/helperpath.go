package authinject

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// othersMayWrite are the permission bits of group and others to write.
const othersMayWrite = 0o022

// safeDirs splits a PATH into the directories that helpers may come from and
// those that were passed over: relative ones, and those that others than their
// owner may write to, where anybody could plant a helper.
func safeDirs(path string) (dirs, skipped []string) {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			skipped = append(skipped, dir)
			continue
		}
		info, err := os.Stat(dir)
		switch {
		case err != nil || !info.IsDir() || slices.Contains(dirs, dir):
		case writableByOthers(info):
			skipped = append(skipped, dir)
		default:
			dirs = append(dirs, dir)
		}
	}
	return dirs, skipped
}

// findHelper returns the path of the program file. The error completes "the
// helper …" and says when the program stands in a directory that was skipped.
func findHelper(dirs, skipped []string, file string) (string, error) {
	if runtime.GOOS == "windows" {
		file += ".exe"
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, file)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || !executable(info) {
			continue
		}
		if writableByOthers(info) {
			return "", fmt.Errorf("was not run: others may write to %s; run chmod go-w on it", quoted(path))
		}
		return path, nil
	}
	for _, dir := range skipped {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return "", fmt.Errorf("was not run: others may write to its directory %s, or it is relative; run chmod go-w on it, or move the helper", quoted(dir))
		}
	}
	return "", errors.New("is not installed: it is in no directory of PATH")
}

// On Windows the permission bits say nothing.
func writableByOthers(info os.FileInfo) bool {
	return runtime.GOOS != "windows" && info.Mode().Perm()&othersMayWrite != 0
}

func executable(info os.FileInfo) bool {
	return runtime.GOOS == "windows" || info.Mode().Perm()&0o111 != 0
}
