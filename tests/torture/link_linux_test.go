package torture

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// link leads to a host of its own, in a network namespace: every packet takes
// its time, and none arrives while the link is down. Nothing says that it is.
type link struct {
	delay atomic.Int64 // one way, a time.Duration
	down  atomic.Bool
	// Host is the address at the other end.
	Host string
	jobs chan func() // run in the namespace
}

func newLink(t *testing.T) *link {
	t.Helper()
	a, b := rand.IntN(250), 4*rand.IntN(60)
	near, far := fmt.Sprintf("10.213.%d.%d", a, b+1), fmt.Sprintf("10.213.%d.%d", a, b+2)
	l := &link{Host: far, jobs: make(chan func())}
	name := fmt.Sprintf("ppx%d-%d", a, b)
	here := tun(t, name+"n")
	setUp(t, name+"n", near, far)
	var there *os.File
	failed := make(chan error)
	go func() {
		// The thread is in the namespace for good, and ends with this goroutine.
		runtime.LockOSThread()
		if failed <- syscall.Unshare(syscall.CLONE_NEWNET); false {
			return
		}
		for job := range l.jobs {
			job()
		}
	}()
	if err := <-failed; err != nil {
		t.Skipf("needs root: a network namespace: %v", err)
	}
	t.Cleanup(func() { close(l.jobs) })
	l.inside(func() {
		there = tun(t, name+"f")
		setUp(t, name+"f", far, near)
	})
	if t.Skipped() || there == nil {
		t.Skip("left out: a link into a network namespace of its own")
	}
	l.carry(t, here, there)
	l.carry(t, there, here)
	return l
}

// inside runs a function in the namespace.
func (l *link) inside(do func()) {
	done := make(chan struct{})
	l.jobs <- func() {
		defer close(done)
		do()
	}
	<-done
}

// Listen listens at the other end.
func (l *link) Listen(t *testing.T) net.Listener {
	t.Helper()
	var listener net.Listener
	var err error
	l.inside(func() { listener, err = net.Listen("tcp4", l.Host+":0") })
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// carry moves packets from one end to the other until the test ends.
func (l *link) carry(t *testing.T, from, to *os.File) {
	type packet struct {
		content []byte
		due     time.Time
	}
	way := make(chan packet, 4096)
	go func() {
		defer close(way)
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if l.down.Load() {
				continue
			}
			select {
			case way <- packet{append([]byte(nil), buf[:n]...), time.Now().Add(time.Duration(l.delay.Load()))}:
			default: // A full queue drops.
			}
		}
	}()
	go func() {
		for p := range way {
			<-time.After(time.Until(p.due))
			if !l.down.Load() {
				_, _ = to.Write(p.content)
			}
		}
	}()
	t.Cleanup(func() { _ = from.Close() })
}

// tun makes a network interface whose packets are read from, and written to, the
// file. It is gone when that is closed.
func tun(t *testing.T, name string) *os.File {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("needs root: /dev/net/tun: %v", err)
	}
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], name)
	const tunDevice, noInfo, setInterface = 0x0001, 0x1000, 0x400454ca
	request.flags = tunDevice | noInfo
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), setInterface, uintptr(unsafe.Pointer(&request))); errno != 0 {
		_ = syscall.Close(fd)
		t.Skipf("needs root: a tun device: %v", errno)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun")
}

func setUp(t *testing.T, name, own, other string) {
	for _, args := range [][]string{{"addr", "add", own, "peer", other, "dev", name}, {"link", "set", name, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("needs root and iproute2: ip %v: %v: %s", args, err, out)
		}
	}
}
