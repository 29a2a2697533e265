// Package parts obtains, starts and stops the real programs that the whole-program checks and the demo run:
// registries and clients built from tests/tools, packages of the system, and pushproxy itself.
//
// Built programs are kept outside the repository, in $XDG_CACHE_HOME/pushproxy-tests/HASH (default ~/.cache), where HASH
// covers every pinned version, the Go version and the platform; a directory appears there only when it is complete.
package parts

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Root returns the top folder of the pushproxy module, found upward from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module pushproxy\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod of module pushproxy above the working directory: run this inside the repository")
		}
		dir = parent
	}
}

// CI tells whether nothing may be left out (the environment says CI=true).
func CI() bool { return os.Getenv("CI") == "true" }

func cacheRoot() (string, error) {
	if dir := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pushproxy-tests"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place to keep built test programs, set XDG_CACHE_HOME: %w", err)
	}
	return filepath.Join(home, ".cache", "pushproxy-tests"), nil
}
