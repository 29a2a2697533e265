package torture

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opensWithin is how long the program may take to open a cache of 10 GiB.
const opensWithin = time.Second

func TestALargeCacheOpensQuicklyAfterAKill(t *testing.T) {
	if *gib == 0 {
		t.Skip("left out: -gib=0")
	}
	s := newStocked(t)
	s.trend(int64(*gib)<<30, func() int64 { return s.bytes }, func(chance *rand.Rand) int64 {
		// From 20 KiB to 200 MiB, as many of each order of magnitude.
		return int64(20 << 10 * math.Pow(10<<10, chance.Float64()))
	})
}

func TestACacheOfManyBlobsOpensQuicklyAfterAKill(t *testing.T) {
	if *blobs == 0 {
		t.Skip("left out: -blobs=0")
	}
	s := newStocked(t)
	s.trend(int64(*blobs), func() int64 { return int64(len(s.digests)) }, func(*rand.Rand) int64 { return 5 << 10 })
}

// stocked is a rig whose cache is filled before it is killed. The upstream says
// that it has every blob, so none is sent on.
type stocked struct {
	*rig
	client *http.Client
	block  []byte      // what all blobs are made of
	lacks  atomic.Bool // the upstream says that it has none

	mu      sync.Mutex
	next    uint64 // number of the next blob
	bytes   int64
	digests []string // of all blobs
}

func newStocked(t *testing.T) *stocked {
	t.Helper()
	s := &stocked{rig: newRig(t, "", 1, 1), client: &http.Client{Timeout: 10 * time.Minute}, block: make([]byte, 1<<20)}
	s.model.Fault = func(r *http.Request) Fault {
		if r.Method == http.MethodHead && !s.lacks.Load() && strings.Contains(r.URL.Path, "/blobs/sha256:") {
			return http.StatusOK
		}
		return None
	}
	_, _ = rand.NewChaCha8([32]byte{byte(*seed)}).Read(s.block)
	s.start()
	return s
}

// content is a blob made of its number: no two have a chunk in common, and none
// has to be kept.
type content struct {
	number uint64
	left   int64
	block  []byte // of its own
	at     int
	blocks uint64
}

func (s *stocked) content(number uint64, size int64) *content {
	return &content{number: number, left: size, block: bytes.Clone(s.block), at: len(s.block)}
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	if c.at == len(c.block) {
		binary.BigEndian.PutUint64(c.block, c.number)
		binary.BigEndian.PutUint64(c.block[8:], c.blocks)
		c.at, c.blocks = 0, c.blocks+1
	}
	n := copy(p[:min(int64(len(p)), c.left)], c.block[c.at:])
	c.at, c.left = c.at+n, c.left-int64(n)
	return n, nil
}

func digestOfAll(r io.Reader) (string, error) {
	hash := sha256.New()
	_, err := io.Copy(hash, r)
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), err
}

// push brings a new blob of some size and returns its digest.
func (s *stocked) push(size int64) (string, error) {
	s.mu.Lock()
	number := s.next
	s.next++
	s.mu.Unlock()
	d, err := digestOfAll(s.content(number, size))
	if err != nil {
		return "", err
	}
	answer, err := s.ask("POST", "/v2/registry.test/acme/app/blobs/uploads/", nil, 0, http.StatusAccepted)
	if err != nil {
		return "", err
	}
	if _, err = s.ask("PUT", answer.Header.Get("Location")+"?digest="+d, s.content(number, size), size, http.StatusCreated); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += size
	s.digests = append(s.digests, d)
	return d, nil
}

// ask performs a request and reads the answer's body away.
func (s *stocked) ask(method, path string, body io.Reader, size int64, want int) (*http.Response, error) {
	r, err := http.NewRequest(method, s.url+path, body)
	if err != nil {
		return nil, err
	}
	r.ContentLength = size
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	said, err := digestOfAll(answer.Body)
	if err == nil && answer.StatusCode != want {
		err = fmt.Errorf("%s %s: %w %d", method, path, errStatus, answer.StatusCode)
	}
	if _, d, is := strings.Cut(path, "/blobs/"); err == nil && method == http.MethodGet && is && said != d {
		err = fmt.Errorf("%s was served with other bytes", d)
	}
	return answer, err
}

// fill brings blobs until there are so many, or so many bytes.
func (s *stocked) fill(most int64, count func() int64, size func(*rand.Rand) int64) {
	s.t.Helper()
	var filling sync.WaitGroup
	var failed atomic.Bool
	for i := range uint64(4) {
		filling.Go(func() {
			for chance := rand.New(rand.NewPCG(*seed^uint64(most), i)); ; {
				s.mu.Lock()
				have := count()
				s.mu.Unlock()
				if have >= most {
					return
				}
				if _, err := s.push(size(chance)); err != nil {
					s.t.Errorf("a blob was not taken: %v", err)
					failed.Store(true)
					return
				}
			}
		})
	}
	filling.Wait()
	if failed.Load() {
		s.t.FailNow()
	}
}

// trend shows what a start takes with an eighth of all, a quarter, a half and all.
func (s *stocked) trend(all int64, count func() int64, size func(*rand.Rand) int64) {
	s.t.Helper()
	step := all
	if *hollow {
		// No more than this is on the disk at once, give or take three value logs.
		step = min(all, 1<<30)
	}
	for _, part := range []int64{8, 4, 2, 1} {
		for most := all / part; count() < most; {
			s.fill(min(most, count()+step), count, size)
			if *hollow {
				s.empty()
			}
		}
		for where := range ways {
			// Whatever else the machine does may hold some of them up: the best counts.
			took := min(s.opens(where), s.opens(where))
			bound := s.bytes <= 12<<30 && where != cold
			for range 8 {
				if bound && took > opensWithin {
					took = min(took, s.opens(where))
				}
			}
			if bound && took > opensWithin {
				s.t.Errorf("it took %s to open so little", took)
			}
		}
	}
}

// whereabouts is where a store is when it is opened.
type whereabouts int

const (
	written whereabouts = iota // a moment ago
	stored                     // on the disk, and in memory
	cold                       // on the disk only
	ways
)

// opens kills the program, when a value log is almost full, starts it again and
// returns how long it took to answer. What was acknowledged has to be there.
func (s *stocked) opens(where whereabouts) (answered time.Duration) {
	s.t.Helper()
	last, err := s.push(200 << 20)
	if err != nil {
		s.t.Fatal(err)
	}
	if where != written {
		s.flush(false)
	}
	s.healthy()
	s.running.Kill()
	if where == cold {
		s.flush(true)
	}
	files := s.files()
	began := time.Now()
	s.start()
	answered = time.Since(began)
	if _, err = s.push(1000); err != nil {
		s.t.Fatal(err)
	}
	wrote := time.Since(began)
	_, split, _ := strings.Cut(s.running.Output(), " opened.")
	split = strings.ReplaceAll(strings.SplitN(split, "\n", 2)[0], "opened.", "")
	s.t.Logf("%s %5.1f GiB, %d blobs, %s, %s: answered after %d ms, took a blob after %d ms; opened: %s", *storage, float64(s.bytes)/(1<<30), len(s.digests), files,
		[]string{"just written", "on the disk", "cold"}[where], answered.Milliseconds(), wrote.Milliseconds(), split)
	s.lacks.Store(true)
	defer s.lacks.Store(false)
	_, err = s.ask("GET", "/v2/registry.test/acme/app/blobs/"+last, nil, 0, http.StatusOK)
	for range 10 {
		some := s.digests[rand.IntN(len(s.digests))]
		_, lost := s.ask("HEAD", "/v2/registry.test/acme/app/blobs/"+some, nil, 0, http.StatusOK)
		err = errors.Join(err, lost)
	}
	if err != nil {
		s.t.Errorf("after a kill: %v", err)
	}
	return answered
}

// files counts what is in the store.
func (s *stocked) files() string {
	n, tables := map[string]int{}, int64(0)
	s.walk(func(path string, size int64) error {
		if strings.Contains(path, "/files/") {
			n["body"]++
		}
		n[filepath.Ext(path)]++
		if filepath.Ext(path) == ".sst" {
			tables += size
		}
		return nil
	})
	return fmt.Sprintf("%d value logs, %d tables of %.1f MiB, %d memtables, %d bodies", n[".vlog"], n[".sst"], float64(tables)/(1<<20), n[".mem"], n["body"])
}

// walk visits the files of the blobs' store, which the program may be removing.
func (s *stocked) walk(visit func(path string, size int64) error) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.data, "blobs"), func(path string, e fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil && !e.IsDir() {
			info, err = e.Info()
		}
		if errors.Is(err, fs.ErrNotExist) || info == nil {
			return nil
		}
		if err == nil {
			err = visit(path, info.Size())
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// flush brings all of the store onto the disk, and out of memory if it is to.
func (s *stocked) flush(out bool) {
	s.t.Helper()
	s.walk(func(path string, _ int64) error {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		err = f.Sync()
		if err == nil && out {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		return errors.Join(err, f.Close())
	})
}

// empty takes the bytes of all bodies off the disk, but for those of the newest
// value logs, and leaves the files as large as they are.
func (s *stocked) empty() {
	s.t.Helper()
	var logs, bodies []string
	s.walk(func(path string, _ int64) error {
		switch filepath.Ext(path) {
		case ".vlog":
			logs = append(logs, path)
		case "":
			if strings.Contains(path, "/files/") {
				bodies = append(bodies, path)
			}
		}
		return nil
	})
	for _, path := range slices.Concat(bodies, logs[:max(0, len(logs)-3)]) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			var info fs.FileInfo
			if info, err = f.Stat(); err == nil {
				// The first page says what the file is.
				err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, max(1, info.Size()-4096))
			}
			err = errors.Join(err, f.Close())
		}
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			s.t.Fatal(err)
		}
	}
}
