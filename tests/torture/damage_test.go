package torture

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func intText(n int64) string { return strconv.FormatInt(n, 10) }

// damage changes a byte of a file of the stopped store that means something, or
// cuts the file short.
func damage(t *testing.T, dir string, chance *rand.Rand) (file string) {
	t.Helper()
	var files []string
	for _, suffix := range []string{"*.vlog", "*.vlog", "*.vlog", "*.sst", "files/*/*"} {
		found, err := filepath.Glob(filepath.Join(dir, suffix))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
				files = append(files, f)
			}
		}
	}
	if len(files) == 0 {
		t.Fatal("there is nothing to damage")
	}
	file = files[chance.IntN(len(files))]
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := chance.IntN(len(content))
	if chance.IntN(10) == 0 && !strings.HasSuffix(file, ".sst") {
		content = content[:at]
	} else {
		content[at] ^= byte(1 << chance.IntN(8))
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDamageIsNeverServedAndHealsWithTheNextPush(t *testing.T) {
	const perRound = 5
	r := newRig(t, "", 1, 600<<10)
	c := r.clients[0]
	chance := rand.New(rand.NewPCG(*seed, 95))
	rounds, found, refused := (*flips+perRound-1)/perRound, 0, 0
	for range rounds {
		r.start()
		for range 6 {
			if _, err := c.Push(chance.IntN(2) == 0); err != nil {
				t.Fatal(err)
			}
		}
		r.drained(time.Minute)
		r.running.Stop()
		for range perRound {
			damage(t, filepath.Join(r.data, "blobs"), chance)
		}
		// A table that is damaged at its root is refused, with what to do.
		check := exec.Command(r.program, "fsck", "--config", r.file)
		check.Env = r.env
		out, err := check.CombinedOutput()
		if strings.Contains(string(out), "move the directory away") {
			refused++
			if err := os.RemoveAll(filepath.Join(r.data, "blobs")); err != nil {
				t.Fatal(err)
			}
		} else if found += strings.Count(string(out), "damaged: sha256"); err != nil && check.ProcessState.ExitCode() != 1 || strings.Contains(string(out), "panic") {
			t.Fatalf("fsck: %v: %s", err, out)
		}
		r.start()
		// What is gone from the cache comes from the upstream, or not at all.
		for _, p := range c.Pushes() {
			if err := c.ReadBack(p); err != nil {
				t.Errorf("it cannot be read: %v", err)
			}
		}
		r.healthy()
		r.running.Stop()
	}
	r.verdict()
	t.Logf("%d places damaged; fsck set %d blobs aside, and %d times the store was refused as a whole", rounds*perRound, found, refused)
}

func TestNothingLeaks(t *testing.T) {
	r := newRig(t, "", 2, 300<<10)
	var down faults
	r.model.Fault = down.decide
	r.start()
	push := func(n int) {
		for i := range n {
			// A part of them meets a bad upstream.
			if i%10 == 0 {
				down.set(everything(newChance()))
			} else {
				down.set(nil)
			}
			p, err := r.clients[i%2].Push(i%3 > 0)
			if err == nil && i%5 == 0 {
				_ = r.clients[i%2].ReadBack(p)
			}
		}
		down.set(nil)
		r.drained(2 * time.Minute)
		for _, c := range r.clients {
			c.HTTP.CloseIdleConnections()
		}
	}
	push(max(30, *pushes/4))
	before := r.usage()
	push(*pushes)
	after := r.usage()
	// What is only waiting for its end gets a minute for it.
	for began := time.Now(); after.goroutines > before.goroutines+10 && time.Since(began) < time.Minute; after = r.usage() {
		<-time.After(time.Second)
	}
	r.healthy()
	r.verdict()
	t.Logf("before: %+v, after %d more pushes: %+v", before, *pushes, after)
	if after.files > before.files+16 {
		t.Errorf("%d files are open, %d were", after.files, before.files)
	}
	if after.goroutines > before.goroutines+10 {
		t.Errorf("%d goroutines run, %d did", after.goroutines, before.goroutines)
	}
	if after.threads > before.threads+8 {
		t.Errorf("%d threads run, %d did", after.threads, before.threads)
	}
	if after.anonMiB > 200 || after.anonMiB > before.anonMiB+64 {
		t.Errorf("%d MiB of anonymous memory, %d were", after.anonMiB, before.anonMiB)
	}
}

type used struct{ files, threads, goroutines, anonMiB int }

// usage reads what the running program has.
func (r *rig) usage() (u used) {
	t, pid := r.t, r.running.Pid()
	t.Helper()
	u.goroutines = r.metric("go_goroutines")
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Skipf("needs /proc: %v", err)
	}
	u.files = len(files)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch n, _ := strconv.Atoi(fields[1]); fields[0] {
		case "Threads:":
			u.threads = n
		case "RssAnon:":
			u.anonMiB = n >> 10
		}
	}
	return u
}

// metric asks the running program for one of its metrics.
func (r *rig) metric(name string) int {
	r.t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.data, "admin.sock"))
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	response, err := client.Get("http://admin/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				r.t.Fatal(err)
			}
			return int(n)
		}
	}
	r.t.Fatalf("there is no metric %s", name)
	return 0
}
