package disk

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// unfit are the file systems that do not keep what a store promises, by the number
// that statfs(2) gives.
var unfit = map[uint32]unfitness{
	unix.NFS_SUPER_MAGIC:       {"NFS", remote},
	unix.SMB_SUPER_MAGIC:       {"SMB", remote},
	unix.SMB2_SUPER_MAGIC:      {"SMB", remote},
	unix.CIFS_SUPER_MAGIC:      {"SMB", remote},
	unix.AFS_SUPER_MAGIC:       {"AFS", remote},
	unix.AFS_FS_MAGIC:          {"AFS", remote},
	unix.CODA_SUPER_MAGIC:      {"Coda", remote},
	unix.CEPH_SUPER_MAGIC:      {"Ceph", remote},
	unix.V9FS_MAGIC:            {"9p", foreign},
	unix.FUSE_SUPER_MAGIC:      {"FUSE", foreign},
	unix.TMPFS_MAGIC:           {"tmpfs", fleeting},
	unix.RAMFS_MAGIC:           {"ramfs", fleeting},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", layered},
}

// FileSystem looks at what a directory is on. The error says that no store should
// be there: machines that share files do not share locks and maps reliably. The
// warning, empty where all is well, says what a store there does not survive.
func FileSystem(dir string) (warning string, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "", fmt.Errorf("file system of %s: %w", dir, err)
	}
	return judge(dir, uint32(s.Type))
}

func judge(dir string, number uint32) (warning string, err error) {
	u, ok := unfit[number]
	switch {
	case !ok:
		return "", nil
	case u.why == remote:
		return "", fmt.Errorf("%s is on a network file system (%s), where locks and memory maps cannot be relied on; choose a directory on a disk of this machine", dir, u.name)
	}
	return fmt.Sprintf("%s is on %s, %s", dir, u.name, u.why), nil
}

// unfitness is what is wrong with a file system.
type unfitness struct{ name, why string }

const (
	remote   = "of other machines too"
	fleeting = "which is memory: the cache, what is known of mounts and every queued push are gone when this machine stops"
	layered  = "a container's own: the cache, what is known of mounts and every queued push are gone with the container; mount a volume there"
	foreign  = "which another program or machine serves: whether what was acknowledged survives a power cut is up to that"
)
