package forward

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

var (
	soakOps   = flag.Int("soak", 600, "operations of the soak of the collection")
	soakEvery = flag.Duration("soak-every", 100*time.Millisecond, "how often the soak collects")
	soakFiles = flag.Bool("soak-files", false, "whether the soak's bodies over 64 KiB are files")
)

// soak pushes to a queue over a cache that is collected all the time. Its clock
// runs an hour in a second, so that what is young is soon old.
type soak struct {
	*queueRig
	began   time.Time
	ops     atomic.Int64
	lost    atomic.Int64 // blobs that a collection had taken, rightly
	removed atomic.Int64
	dir     string
}

func (s *soak) now() time.Time { return s.began.Add(time.Since(s.began) * 3600) }

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{began: time.Now(), dir: filepath.Join(t.TempDir(), "cache")}
	store, err := blobcache.OpenFiles(s.dir, blobcache.FilesOptions{InBadger: !*soakFiles,
		BadgerOptions: blobcache.BadgerOptions{Floor: 32 << 20, ValueLogFileSize: 16 << 20, MemTableSize: 4 << 20}})
	noError(t, err)
	t.Cleanup(func() { noError(t, store.Close()) })
	r := newRig(t, &upstreamtest.Registry{})
	cache := blobcache.New(store, store)
	cache.Now = s.now
	r.Forwarder = New(cache, &metadata.DB{KV: &metadata.Memory{}})
	s.queueRig = &queueRig{rig: r, owner: ownerOf("alice")}
	s.open()
	t.Cleanup(func() {
		s.stop()
		noError(t, r.Forwarder.Close(context.Background()))
	})
	return s
}

// push makes an image of two blobs, one of them often pushed before, and has it
// queued. Whatever was answered with 201 or 200 must be there for the manifest.
func (s *soak) push(r *rand.Rand, client int) error {
	size := 1 + r.IntN(40<<10)
	if r.IntN(20) == 0 {
		size = 1<<20 + r.IntN(1<<20)
	}
	began := time.Now()
	blobs := [][]byte{fmt.Appendf(nil, "shared %d", r.IntN(3000)), make([]byte, size)}
	for i := range blobs[1] {
		blobs[1][i] = byte(r.Uint32())
	}
	for _, b := range blobs {
		d := digest.FromBytes(b)
		s.ops.Add(1)
		if granted, err := s.meta.Granted(context.Background(), "alice", d); err != nil {
			return err
		} else if granted {
			if _, err := s.cache.Stat(context.Background(), d); err == nil {
				continue // HEAD: 200
			}
			s.lost.Add(1)
		}
		u, err := s.cache.Begin(context.Background(), digest.SHA256, "alice")
		if err != nil {
			return err
		}
		if _, err := u.Write(b); err != nil {
			return err
		}
		if err := u.Commit(context.Background(), d); err != nil {
			return err
		}
		if err := s.meta.Grant(context.Background(), "alice", d); err != nil {
			return err
		}
	}
	m := s.image(blobs...)
	s.ops.Add(1)
	job := Job{Target: s.reach("alice"), Repo: repo(fmt.Sprintf("app%d", client)), Manifest: m, Digest: m.Digest(digest.SHA256), Tag: "v1"}
	_, err := s.Accept(context.Background(), job, "")
	if errors.Is(err, oci.ErrManifestBlobUnknown) && time.Since(began) > 800*time.Millisecond {
		return nil // on this clock the blobs were old
	}
	if err == nil && r.IntN(50) == 0 {
		s.reg.Forget(digest.FromBytes(blobs[1])) // the upstream's memory is finite
	}
	return err
}

// diskUsage returns the bytes that a directory's files take on the disk.
func diskUsage(t *testing.T, dir string) (n int64) {
	t.Helper()
	noError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var s syscall.Stat_t
		if err == nil && syscall.Lstat(path, &s) == nil {
			n += s.Blocks * 512
		}
		return err
	}))
	return n
}

func TestNothingThatWasAnsweredWith201IsCollectedBeforeItsManifest(t *testing.T) {
	t.Parallel()
	s := newSoak(t)
	const quota = 48 << 20
	limits := blobcache.Limits{Quota: quota, Needed: s.Needed}
	stop := make(chan struct{})
	var clients, collections sync.WaitGroup
	collections.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(*soakEvery):
			}
			r, err := s.cache.Collect(context.Background(), limits)
			if err != nil {
				t.Errorf("collect: %v", err)
				return
			}
			s.removed.Add(int64(r.Removed))
		}
	})
	for client := range 6 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), uint64(client)))
			for s.ops.Load() < int64(*soakOps) && !t.Failed() {
				if err := s.push(r, client); err != nil {
					t.Errorf("after %d operations: %v", s.ops.Load(), err)
				}
			}
		})
	}
	clients.Wait()
	for len(s.Jobs()) > 0 {
		if j := s.Jobs()[0]; j.State == metadata.JobParked {
			t.Fatalf("parked: %s", j.Error)
		}
		<-time.After(20 * time.Millisecond)
	}
	close(stop)
	collections.Wait()
	var live int64
	for range 3 {
		<-time.After(1200 * time.Millisecond)
		r, err := s.cache.Collect(context.Background(), limits)
		noError(t, err)
		live = r.Bytes - r.Freed
	}
	disk := diskUsage(t, s.dir)
	t.Logf("%d operations, %d blobs removed, %d of them pushed again; %d MiB live, %d MiB on the disk", s.ops.Load(), s.removed.Load(), s.lost.Load(), live>>20, disk>>20)
	if live > quota {
		t.Errorf("%d bytes are live, the quota is %d", live, quota)
	}
	// The newest value log and the memtables are not collected.
	if disk > live*3/2+24<<20 {
		t.Errorf("%d bytes are on the disk for %d live ones", disk, live)
	}
}
