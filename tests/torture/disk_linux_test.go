package torture

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// disk is an ext4 file system of its own.
type disk struct {
	t            *testing.T
	image, mount string
	mounted      bool
}

func newDisk(t *testing.T, bytes int64) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image"), mount: filepath.Join(t.TempDir(), "disk")}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, bytes), os.Mkdir(d.mount, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", d.image}, {"mount", "-o", "loop", d.image, d.mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs root, loop devices and mkfs.ext4: %v: %v: %s", args, err, out)
		}
	}
	d.mounted = true
	t.Cleanup(func() {
		if d.mounted {
			d.run("umount", d.mount)
		}
	})
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	for range 50 {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err == nil {
			return
		}
		if !strings.Contains(string(out), "busy") {
			d.t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		<-time.After(100 * time.Millisecond)
	}
	d.t.Fatalf("%s %v: still busy", name, args)
}

// cut makes the file system forget what is not on the disk: EXT4_IOC_SHUTDOWN
// without a flush of the journal.
func (d *disk) cut() {
	d.t.Helper()
	f, err := os.Open(d.mount)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	noLogFlush := uint32(2)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&noLogFlush))); errno != 0 {
		d.t.Fatalf("shutdown of %s: %v", d.mount, errno)
	}
}

// again is the power coming back. A mount namespace that somebody made meanwhile
// may keep the dead file system alive for a while.
func (d *disk) again() {
	d.t.Helper()
	probe := filepath.Join(d.mount, ".probe")
	for range 60 {
		d.mounted = false
		d.run("umount", d.mount)
		d.run("mount", "-o", "loop", d.image, d.mount)
		d.mounted = true
		if err := errors.Join(os.WriteFile(probe, nil, 0o600), os.Remove(probe)); err == nil {
			return
		}
		<-time.After(time.Second)
	}
	d.t.Skip("left out: another mount namespace keeps the file system")
}

func (d *disk) free() int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.mount, &s); err != nil {
		d.t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// fill makes a file that leaves so many bytes free; 0: none at all.
func (d *disk) fill(file string, leave int64) {
	d.t.Helper()
	// The file system takes some for the file itself.
	d.run("fallocate", "-l", intText(d.free()-max(leave, 8<<20)), file)
	if leave > 0 {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		err = nil
	}
}

func TestNoQueuedPushIsLostToPowerCuts(t *testing.T) {
	if *cuts == 0 {
		t.Skip("left out: -cuts=0")
	}
	d := newDisk(t, 3<<30)
	r := newRig(t, filepath.Join(d.mount, "data"), 4, 200<<10)
	var down faults
	r.model.Fault = down.decide
	chance := rand.New(rand.NewPCG(*seed, 97))
	var late []span
	// In the dark half of the time, so that there is something to lose.
	for range *cuts {
		r.start()
		if chance.IntN(2) == 0 {
			down.set(refusing(newChance()))
		} else {
			down.set(nil)
		}
		stop := r.load(1)
		r.acknowledged()
		<-time.After(300*time.Millisecond + time.Duration(chance.Int64N(int64(1500*time.Millisecond))))
		began := time.Now()
		d.cut()
		// The file system is dead and the program is not yet: what it acknowledges
		// from here on it has to be sure of as well.
		<-time.After(50 * time.Millisecond)
		r.running.Kill()
		stop()
		late = append(late, span{began, time.Now()})
		d.again()
	}
	down.set(nil)
	r.start()
	r.drained(5 * time.Minute)
	acked := r.verdict()
	r.running.Stop()
	if acked == 0 {
		t.Error("nothing was acknowledged")
	}
	before, lostBefore := r.counted(func(p Push) bool { return !within(late, p.Answered) })
	after, lostAfter := r.counted(func(p Push) bool { return within(late, p.Answered) })
	t.Logf("%d power cuts, %d acknowledged pushes; the slowest start took %s", *cuts, acked, r.slowest)
	t.Logf("acknowledged before a cut began: %d, lost of these: %d; after it: %d, lost of these: %d", before, lostBefore, after, lostAfter)
}

// span is from the beginning of a power cut to the program's end.
type span struct{ from, to time.Time }

func within(spans []span, at time.Time) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return at.After(s.from) && !at.After(s.to) })
}

// counted returns how many of the acknowledged pushes are some, and how many of
// these the upstream lacks.
func (r *rig) counted(some func(Push) bool) (all, lost int) {
	for _, c := range r.clients {
		for _, p := range c.Pushes() {
			if p.Acked && some(p) {
				all++
				if r.model.Holds(p.Repo, p.Digest) != "" {
					lost++
				}
			}
		}
	}
	return all, lost
}

func TestS29AFullDiskIsSaidAndRecoveredFrom(t *testing.T) {
	if *fills == 0 {
		t.Skip("left out: -fills=0")
	}
	d := newDisk(t, 1600<<20)
	r := newRig(t, filepath.Join(d.mount, "data"), 2, 200<<10)
	chance := rand.New(rand.NewPCG(*seed, 96))
	r.start()
	var slowest time.Duration
	starts := 0
	filler := filepath.Join(d.mount, "filler")
	for i := range *fills {
		leave := []int64{0, 16 << 20, 100 << 20, 300 << 20}[i%4]
		stop := r.load(0.5)
		<-time.After(300 * time.Millisecond)
		d.fill(filler, leave)
		<-time.After(500 * time.Millisecond)
		stop()
		r.healthy()
		r.refuses(leave)
		if chance.IntN(2) == 0 {
			// On a disk that is as full as before.
			starts++
			r.running.Kill()
			r.start()
			r.refuses(leave)
			r.serves()
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for {
			_, err := r.clients[0].Push(true)
			if err == nil {
				break
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("10 s after there is room again: %v", err)
			}
			<-time.After(50 * time.Millisecond)
		}
		slowest = max(slowest, time.Since(began))
		r.healthy()
		r.roomy(d)
	}
	r.drained(2 * time.Minute)
	acked := r.verdict()
	r.running.Stop()
	t.Logf("%d fills, %d starts on the full disk, %d acknowledged pushes, it never ended by itself; room was used again after %s at most", *fills, starts, acked, slowest)
}

// refuses checks that a push is refused for the lack of room.
func (r *rig) refuses(leave int64) {
	r.t.Helper()
	_, err := r.clients[0].Push(r.clients[0].Random.IntN(2) == 0)
	if err == nil || !strings.Contains(err.Error(), "507") || !strings.Contains(err.Error(), "disk is full") {
		r.t.Errorf("a push to a disk with %d bytes free: %v, want a 507 that says what is full", leave, err)
	}
	r.healthy()
}

// serves checks that what was acknowledged last can be read.
func (r *rig) serves() {
	r.t.Helper()
	for _, p := range slices.Backward(r.clients[0].Pushes()) {
		if p.Acked {
			if err := r.clients[0].ReadBack(p); err != nil {
				r.t.Errorf("on a full disk it cannot be read: %v", err)
			}
			return
		}
	}
}

// roomy empties the cache when it takes much of the disk: that it fills by
// itself is not what is tested.
func (r *rig) roomy(d *disk) {
	r.t.Helper()
	if d.free() > 1000<<20 {
		return
	}
	r.drained(2 * time.Minute)
	r.running.Stop()
	if err := os.RemoveAll(filepath.Join(r.data, "blobs")); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}
