package disk

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFileSystemsThatKeepNoPromisesAreToldApart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		number  uint32
		warning string
		err     string
	}{
		{"a local one suits", unix.EXT4_SUPER_MAGIC, "", ""},
		{"NFS is refused", unix.NFS_SUPER_MAGIC, "", "/data is on a network file system (NFS), where locks and memory maps cannot be relied on; choose"},
		{"a share of Windows is refused", unix.CIFS_SUPER_MAGIC, "", "network file system (SMB)"},
		{"memory is said to be gone", unix.TMPFS_MAGIC, "/data is on tmpfs, which is memory: ", ""},
		{"a container's layer is said to be gone", unix.OVERLAYFS_SUPER_MAGIC, "mount a volume there", ""},
		{"what a program serves is said to be that", unix.FUSE_SUPER_MAGIC, "another program or machine serves", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			warning, err := judge("/data", test.number)
			if !strings.Contains(warning, test.warning) || (warning == "") != (test.warning == "") {
				t.Errorf("warning %q, want %q", warning, test.warning)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func TestTheFileSystemIsTheDirectorysOwn(t *testing.T) {
	t.Parallel()
	// Linux has memory there, wherever it has anything there.
	var s unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &s); err != nil || s.Type != unix.TMPFS_MAGIC {
		t.Skip("needs a tmpfs in /dev/shm")
	}
	if warning, err := FileSystem("/dev/shm"); err != nil || !strings.HasPrefix(warning, "/dev/shm is on tmpfs, ") {
		t.Errorf("%q, %v", warning, err)
	}
	if _, err := FileSystem("/dev/shm/there is none"); err == nil {
		t.Error("a directory that is not there is on no file system")
	}
}
