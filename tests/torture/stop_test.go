package torture

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// stopWithin is how long a program that is asked to stop may take.
const stopWithin = 25 * time.Second

func TestNothingAcknowledgedIsLostToStops(t *testing.T) {
	r := newRig(t, "", 4, 300<<10)
	var down faults
	r.model.Fault = func(q *http.Request) Fault {
		<-time.After(rand.N(100 * time.Millisecond))
		return down.decide(q)
	}
	r.start()
	stop := r.load(0.6)
	chance := rand.New(rand.NewPCG(*seed, 94))
	r.acknowledged()
	kinds := []func(*rand.Rand) time.Duration{r.stopped, r.stoppedWhileItCollects, r.stoppedTwice, r.stoppedWhileItOpens, r.stoppedDuringAnUpload}
	var slowest time.Duration
	for i := range *stops {
		// In the dark half of the time, so that the journal has something to keep.
		down.set(nil)
		if chance.IntN(2) == 0 {
			down.set(func(*http.Request) Fault { return 503 })
		}
		open := r.beginUpload(chance)
		<-time.After(time.Duration(chance.Int64N(int64(500 * time.Millisecond))))
		r.healthy()
		cut, twice := r.short(), i%len(kinds) == 2
		slowest = max(slowest, kinds[i%len(kinds)](chance))
		if now := r.short(); now > cut && !twice {
			t.Errorf("%d answers broke off in an orderly stop", now-cut)
		}
		r.start()
		open.finish()
	}
	if *stops >= 50 {
		slowest = max(slowest, r.stoppedBeforeADeadUpstream(&down))
		r.start()
	}
	down.set(nil)
	stop()
	r.drained(2 * time.Minute)
	acked := r.allThere()
	t.Logf("%d stops, %d acknowledged pushes; the slowest stop took %s, the slowest start %s", *stops, acked, slowest, r.slowest)
}

func (r *rig) short() (n int) {
	for _, c := range r.clients {
		n += c.Short()
	}
	return n
}

// gone waits for the program's end, which must be an orderly one.
func (r *rig) gone(p *parts.Process, began time.Time) time.Duration {
	r.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(stopWithin):
		p.Signal(syscall.SIGQUIT)
		<-p.Done()
		r.t.Fatalf("it did not stop within %s:\n%s", stopWithin, p.Output())
	}
	if log := p.Output(); p.ExitCode() != 0 || strings.Contains(log, "panic") || strings.Contains(log, "level=ERROR") {
		r.t.Fatalf("it ended with status %d:\n%s", p.ExitCode(), log[max(0, len(log)-4000):])
	}
	return time.Since(began)
}

func (r *rig) stopped(*rand.Rand) time.Duration {
	r.t.Helper()
	began := time.Now()
	r.running.Signal(syscall.SIGTERM)
	return r.gone(r.running.Process, began)
}

func (r *rig) stoppedWhileItCollects(chance *rand.Rand) time.Duration {
	r.t.Helper()
	orders := make(chan error, 3)
	for range cap(orders) {
		gc := exec.Command(r.program, "gc", "--config", r.file)
		gc.Env = r.env
		go func() { orders <- gc.Run() }()
	}
	<-time.After(time.Duration(chance.Int64N(int64(100 * time.Millisecond))))
	took := r.stopped(chance)
	for range cap(orders) {
		// It may have been done, ended with the program, or done without it.
		<-orders
	}
	return took
}

// stoppedTwice does not wait for an orderly stop: the second signal ends it.
func (r *rig) stoppedTwice(chance *rand.Rand) time.Duration {
	r.t.Helper()
	r.running.Signal(syscall.SIGTERM)
	<-time.After(time.Duration(chance.Int64N(int64(30 * time.Millisecond))))
	began := time.Now()
	for {
		// The first may not have been looked at when the second comes.
		r.running.Signal(syscall.SIGTERM)
		select {
		case <-r.running.Done():
		case <-time.After(50 * time.Millisecond):
			if time.Since(began) > 2*time.Second {
				r.t.Fatal("a second signal does not end it at once")
			}
			continue
		}
		return time.Since(began)
	}
}

func (r *rig) stoppedWhileItOpens(chance *rand.Rand) time.Duration {
	r.t.Helper()
	slowest := r.stopped(chance)
	for range 3 {
		cmd := exec.Command(r.program, "serve", "--config", r.file)
		cmd.Env, cmd.Dir = r.env, r.dir
		p, err := parts.Start(cmd)
		if err != nil {
			r.t.Fatal(err)
		}
		// It listens before it opens anything.
		r.eventually(30*time.Second, "it listens", func() bool {
			conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		<-time.After(time.Duration(chance.Int64N(int64(150 * time.Millisecond))))
		began := time.Now()
		p.Signal(syscall.SIGTERM)
		slowest = max(slowest, r.gone(p, began))
	}
	return slowest
}

// stoppedDuringAnUpload stops while a client sends slowly: it is waited for.
func (r *rig) stoppedDuringAnUpload(chance *rand.Rand) time.Duration {
	r.t.Helper()
	c := r.clients[0]
	h, _, err := r.send("POST", "/v2/"+c.Host+"/acme/slow/blobs/uploads/", nil, http.StatusAccepted)
	if err != nil {
		r.t.Fatal(err)
	}
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(chance.Uint32())
	}
	reader, writer := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		_, _, err := r.send("PUT", h.Get("Location")+"?digest="+digestOf(body), reader, http.StatusCreated)
		answered <- err
	}()
	for part := range slices.Chunk(body[:512<<10], 64<<10) {
		_, _ = writer.Write(part)
	}
	began := time.Now()
	r.running.Signal(syscall.SIGTERM)
	<-time.After(time.Duration(chance.Int64N(int64(500 * time.Millisecond))))
	for part := range slices.Chunk(body[512<<10:], 64<<10) {
		_, _ = writer.Write(part)
	}
	_ = writer.Close()
	if err := <-answered; err != nil {
		r.t.Errorf("an upload that was under way when it stopped: %v", err)
	}
	return r.gone(r.running.Process, began)
}

// stoppedBeforeADeadUpstream stops while a push waits for an upstream that never
// answers, and while a client has stopped to send: neither is waited for longer
// than a stop may take.
func (r *rig) stoppedBeforeADeadUpstream(down *faults) time.Duration {
	r.t.Helper()
	r.model.Fault = func(*http.Request) Fault {
		<-r.t.Context().Done()
		return Reset
	}
	<-time.After(time.Second)
	took := r.stopped(nil)
	r.model.Fault = down.decide
	return took
}

// send performs a request of its own connection.
func (r *rig) send(method, path string, body io.Reader, want int) (http.Header, []byte, error) {
	request, err := http.NewRequest(method, r.url+path, body)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	// The program has taken the request when the first of a body is sent.
	request.Header.Set("Expect", "100-continue")
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}}
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s %s: %w %d: %s", method, path, errStatus, response.StatusCode, raw)
	}
	return response.Header, raw, err
}

// openUpload is an upload that outlives a stop.
type openUpload struct {
	r        *rig
	content  []byte
	sent     int
	location string
}

// beginUpload sends a part of a blob.
func (r *rig) beginUpload(chance *rand.Rand) *openUpload {
	r.t.Helper()
	u := &openUpload{r: r, content: make([]byte, 1+chance.IntN(3<<20))}
	for i := range u.content {
		u.content[i] = byte(chance.Uint32())
	}
	u.sent = chance.IntN(len(u.content))
	h, _, err := r.send("POST", "/v2/registry.test/acme/open/blobs/uploads/", nil, http.StatusAccepted)
	if err == nil {
		h, _, err = r.send("PATCH", h.Get("Location"), bytes.NewReader(u.content[:u.sent]), http.StatusAccepted)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	u.location = h.Get("Location")
	return u
}

// finish goes on where the program says that the upload is.
func (u *openUpload) finish() {
	u.r.t.Helper()
	h, _, err := u.r.send("GET", u.location, nil, http.StatusNoContent)
	if want := fmt.Sprintf("0-%d", max(0, u.sent-1)); err != nil || h.Get("Range") != want {
		u.r.t.Errorf("after a stop the upload is at %q, %v; want %q", h.Get("Range"), err, want)
		return
	}
	if _, _, err := u.r.send("PUT", u.location+"?digest="+digestOf(u.content), bytes.NewReader(u.content[u.sent:]), http.StatusCreated); err != nil {
		u.r.t.Errorf("after a stop the upload cannot be finished: %v", err)
	}
}
