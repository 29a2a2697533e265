package torture

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

var (
	kills   = flag.Int("kills", 4, "how often the program is killed")
	cuts    = flag.Int("cuts", 1, "how often the power is cut")
	stops   = flag.Int("stops", 5, "how often the program is asked to stop")
	fills   = flag.Int("fills", 1, "how often the disk is filled")
	flips   = flag.Int("flips", 10, "how many bytes are flipped")
	outages = flag.Int("outages", 1, "how often the upstream goes away")
	pushes  = flag.Int("pushes", 40, "how many pushes the leak check makes")
	gib     = flag.Int("gib", 0, "how many GiB are cached when the program is killed and started again")
	blobs   = flag.Int("blobs", 0, "how many small blobs are cached when the program is killed and started again")
	hollow  = flag.Bool("hollow", false, "take the cached bytes off the disk again and leave the names, sizes and records: a large cache on a small disk")
	storage = flag.String("storage", "badger", "where the program keeps blobs: badger or files")
	seed    = flag.Uint64("seed", 0, "of everything that is left to chance; 0: another each time")
)

// program is pushproxy as it is released.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pushproxy-torture-")
	if err != nil {
		return "", err
	}
	return parts.BuildPushproxy(context.Background(), dir, false)
})

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// rig is a pushproxy that is to be broken, with its clients and its upstream.
type rig struct {
	t       *testing.T
	program string
	dir     string // of the configuration
	data    string
	file    string
	config  parts.Config
	port    int
	url     string
	env     []string
	model   *Model
	clients []*Client
	running *parts.Pushproxy
	slowest time.Duration // until it answered, of all starts
}

// newRig prepares a rig whose data is in data; empty: beside its configuration.
func newRig(t *testing.T, data string, clients, big int) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newRigOn(t, data, clients, big, l)
}

// newRigOn is newRig with an upstream that listens where l does.
func newRigOn(t *testing.T, data string, clients, big int, l net.Listener) *rig {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatalf("no pushproxy: %v", err)
	}
	port, err := parts.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d", *seed)
	r := &rig{t: t, program: path, dir: t.TempDir(), data: data, port: port, model: NewModel()}
	if data == "" {
		r.data = filepath.Join(r.dir, "data")
	}
	r.file = filepath.Join(r.dir, "pushproxy.yaml")
	r.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	r.env = []string{"HOME=" + r.dir, "PATH=" + os.Getenv("PATH")}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: r.model}}
	server.Start()
	t.Cleanup(server.Close)
	account := filepath.Join(r.dir, "account", "config.json")
	text := fmt.Sprintf(`{"auths":{"registry.test":{"username":%q,"password":%q}}}`, User, Password)
	if err := errors.Join(os.Mkdir(filepath.Dir(account), 0o700), os.WriteFile(account, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.config = parts.Config{
		Listen: []string{fmt.Sprintf("127.0.0.1:%d", port)}, DataDir: r.data, Storage: *storage,
		Upstreams:   []parts.Upstream{{Host: "registry.test", URL: server.URL}},
		Credentials: &parts.Credentials{DockerConfig: account, PodmanAuth: filepath.Join(r.dir, "none.json")},
	}
	r.write()
	for i := range clients {
		r.clients = append(r.clients, &Client{
			URL: fmt.Sprintf("http://127.0.0.1:%d", port), Host: "registry.test", Model: r.model, Repo: fmt.Sprintf("acme/app%d", i), Tags: []string{"a", "b"}, Big: big,
			HTTP: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}, Random: rand.New(rand.NewPCG(*seed, uint64(i))),
		})
	}
	t.Cleanup(func() {
		if r.running != nil {
			r.running.Stop()
		}
	})
	return r
}

// write stores the configuration.
func (r *rig) write() {
	r.t.Helper()
	if err := r.config.Write(r.file); err != nil {
		r.t.Fatal(err)
	}
}

// start runs the program until it answers.
func (r *rig) start() {
	r.t.Helper()
	began := time.Now()
	p, err := parts.StartPushproxy(r.t.Context(), r.program, r.file, r.port, r.env)
	if err != nil {
		r.t.Fatal(err)
	}
	r.slowest = max(r.slowest, time.Since(began))
	r.running = p
}

// healthy fails the test where the program crashed by itself.
func (r *rig) healthy() {
	r.t.Helper()
	if log := r.running.Output(); strings.Contains(log, "panic:") || strings.Contains(log, "fatal error:") || strings.Contains(log, "SIGBUS") {
		at := max(strings.Index(log, "panic:"), strings.Index(log, "fatal error:"), strings.Index(log, "SIGBUS"), 300)
		r.t.Fatalf("pushproxy crashed:\n%s", log[at-300:min(at+4000, len(log))])
	}
	select {
	case <-r.running.Done():
		log := r.running.Output()
		r.t.Fatalf("pushproxy ended by itself:\n%s", log[max(0, len(log)-4000):])
	default:
	}
}

// load has all clients push until the returned function is called.
func (r *rig) load(asyncShare float64) (stop func()) {
	end := make(chan struct{})
	var running sync.WaitGroup
	for _, c := range r.clients {
		running.Go(func() { c.Run(end, asyncShare) })
	}
	return func() {
		close(end)
		running.Wait()
	}
}

// acknowledged waits until a push was: before that there is nothing to lose.
func (r *rig) acknowledged() {
	r.t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; {
		for _, c := range r.clients {
			if slices.ContainsFunc(c.Pushes(), func(p Push) bool { return p.Acked }) {
				return
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	r.t.Fatal("no push was acknowledged within a minute")
}

type job struct {
	ID, State, Error string
	Attempts         int
}

// queue lists the jobs that the running program has.
func (r *rig) queue() []job {
	r.t.Helper()
	cmd := exec.Command(r.program, "queue", "ls", "--json", "--config", r.file)
	cmd.Env = r.env
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("queue ls: %v", err)
	}
	var jobs []job
	if err := json.Unmarshal(out, &jobs); err != nil {
		r.t.Fatal(err)
	}
	return jobs
}

// drained waits until nothing is queued, and returns how long that took.
func (r *rig) drained(most time.Duration) time.Duration {
	r.t.Helper()
	began := time.Now()
	for {
		jobs := r.queue()
		if len(jobs) == 0 {
			return time.Since(began)
		}
		if time.Since(began) > most {
			r.t.Fatalf("after %s %d jobs are left, the first: %+v", most, len(jobs), jobs[0])
		}
		<-time.After(100 * time.Millisecond)
	}
}

// verdict checks every acknowledged push.
func (r *rig) verdict() (acked int) {
	r.t.Helper()
	for _, c := range r.clients {
		n, wrong := c.Check()
		acked += n
		for i, w := range wrong {
			if i == 5 {
				r.t.Errorf("and %d more", len(wrong)-i)
				break
			}
			r.t.Error(w)
		}
	}
	return acked
}

// allThere is verdict where there must be acknowledged pushes, and reads each of
// them back.
func (r *rig) allThere() (acked int) {
	r.t.Helper()
	acked = r.verdict()
	for _, c := range r.clients {
		for _, p := range c.Pushes() {
			if p.Acked {
				if err := c.ReadBack(p); err != nil {
					r.t.Errorf("an acknowledged push cannot be read back: %v", err)
				}
			}
		}
		for _, w := range c.Wrong() {
			r.t.Error(w)
		}
	}
	if acked == 0 {
		r.t.Error("nothing was acknowledged")
	}
	return acked
}
