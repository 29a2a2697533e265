//go:build !linux

package disk

// FileSystem knows no file systems here.
func FileSystem(string) (warning string, err error) { return "", nil }
