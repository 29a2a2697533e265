package parts

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Ports lie below the range that the system hands to outgoing connections. Each process takes them from blocks that it has
// to itself, so that no two of the test programs which run at once are given the same.
const (
	firstPort  = 18000
	portBlocks = 280
	blockSize  = 50
)

// ports is what is left of the block that this process holds.
var ports struct {
	sync.Mutex
	left []int
	held []*os.File // open, and so locked, as long as the process lives
}

// FreePort returns a TCP port free on 127.0.0.1 and, where there is one, [::1]. Nobody else who calls FreePort, in this
// process or another of the same user, is given it while this process lives, also while nobody listens on it.
func FreePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	for {
		if len(ports.left) == 0 {
			if err := claimPorts(); err != nil {
				return 0, err
			}
		}
		port := ports.left[0]
		ports.left = ports.left[1:]
		if free("127.0.0.1", port) && (free("::1", port) || !free("::1", 0)) {
			return port, nil
		}
	}
}

// claimPorts locks a block of ports that no other process has locked.
func claimPorts() error {
	root, err := cacheRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, block := range rand.Perm(portBlocks) {
		first := firstPort + block*blockSize
		lock, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(first)), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = lock.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				continue
			}
			return err
		}
		ports.held = append(ports.held, lock)
		for i := range blockSize {
			ports.left = append(ports.left, first+i)
		}
		return nil
	}
	return fmt.Errorf("no free TCP ports between %d and %d: test programs hold all of them", firstPort, firstPort+portBlocks*blockSize-1)
}

func free(host string, port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
