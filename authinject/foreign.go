package authinject

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// errWritable says that others choose what is read, and what helpers are run.
var errWritable = errors.New("other users can write it: chmod go-w it")

// ours reports why a file is not this user's to rely on: it belongs to another
// user than this one and root, or others can write it (trust.md S4, S17).
func ours(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d and the proxy runs as user %d", st.Uid, os.Geteuid())
	}
	if info.Mode().Perm()&0o022 != 0 {
		return errWritable
	}
	return nil
}
