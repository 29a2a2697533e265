package tests

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// Clients that take their time, and more than their share.

// buildImpatient builds pushproxy with its limits on slow clients shortened, so that a test need not wait for a minute. What
// the limits are is shown in proxy's own tests, in fake time.
var buildImpatient = sync.OnceValues(func() (string, error) {
	return parts.BuildChanged(context.Background(), suiteDir, "impatient", raceEnabled, []parts.Change{
		{File: "cmd/pushproxy/serve.go", Old: "headerTimeout  = 10 * time.Second", New: "headerTimeout  = 3 * time.Second"},
		{File: "proxy/receive.go", Old: "bodyPause = 60 * time.Second", New: "bodyPause = 4 * time.Second"},
		{File: "proxy/receive.go", Old: "bodyLeast = 60 << 10", New: "bodyLeast = 4 << 10"},
	})
})

// drip sends bytes of an endless text, one by one, until the connection is closed; ended tells how long that took.
func drip(c net.Conn, text string, every time.Duration) (ended time.Duration) {
	begin := time.Now()
	pace := time.NewTicker(every)
	defer pace.Stop()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	for i := 0; ; i++ {
		if _, err := c.Write([]byte{text[i%len(text)]}); err != nil || time.Since(begin) > time.Minute {
			return time.Since(begin)
		}
		<-pace.C
	}
}

func TestS28SlowClientsAreGivenUpAndOthersAreServed(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	program, err := buildImpatient()
	if err != nil {
		t.Fatal(err)
	}
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r := startRig(t, reg.URL, func(r *rig) { r.program = program })
	a := r.api()
	upload := a.begin(t, killRepo)
	dial := func() net.Conn {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.Port), patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var slow sync.WaitGroup
	ended := make(chan string, 300)
	for _, kind := range []struct {
		name, head, text string
		n                int
		most             time.Duration
	}{
		{"silence", "", "", 50, 20 * time.Second},
		{"headers byte by byte", "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "x", 100, 20 * time.Second},
		{"header lines without end", "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n", "X: y\r\n", 50, 20 * time.Second},
		{"a body byte by byte", fmt.Sprintf("PATCH %s HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 100000000\r\n\r\n", upload, r.Port), "x", 20, 40 * time.Second},
		{"chunks byte by byte", fmt.Sprintf("PATCH /v2/%s/blobs/uploads/none HTTP/1.1\r\nHost: localhost:%d\r\nTransfer-Encoding: chunked\r\n\r\n", killRepo, r.Port), "1\r\nx\r\n", 20, 40 * time.Second},
		{"a manifest byte by byte", fmt.Sprintf("PUT /v2/%s/manifests/slow HTTP/1.1\r\nHost: localhost:%d\r\nContent-Type: %s\r\nContent-Length: 100000\r\n\r\n", killRepo, r.Port, typeManifest), " ", 20, 40 * time.Second},
		{"a handshake byte by byte", "\x16\x03\x01", "\x00", 20, 40 * time.Second},
	} {
		for range kind.n {
			c := dial()
			slow.Go(func() {
				_, _ = io.WriteString(c, kind.head)
				took := time.Duration(0)
				if kind.text == "" {
					begin := time.Now()
					_ = c.SetReadDeadline(begin.Add(time.Minute))
					_, _ = c.Read(make([]byte, 1))
					took = time.Since(begin)
				} else {
					took = drip(c, kind.text, 100*time.Millisecond)
				}
				if took > kind.most {
					ended <- fmt.Sprintf("%s: the connection was open for %s", kind.name, took)
				}
			})
		}
	}
	// Meanwhile, others push.
	slowest, pushes := time.Duration(0), 0
	done := make(chan struct{})
	go func() {
		slow.Wait()
		close(done)
	}()
	for under := true; under || pushes < 10; pushes++ {
		begin := time.Now()
		pushSmall(t, a, fmt.Sprintf("%s/acme/healthy%d", upstreamName, pushes%5))
		slowest = max(slowest, time.Since(begin))
		select {
		case <-done:
			under = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	close(ended)
	for what := range ended {
		t.Error(what)
	}
	t.Logf("%d pushes meanwhile, the slowest took %s", pushes, slowest.Round(time.Millisecond))
	if slowest > 10*time.Second {
		t.Errorf("%d pushes meanwhile, the slowest took %s", pushes, slowest)
	}
}

// One user of the machine cannot take the connections of the others.
func TestS28OneUserHasNoMoreThanTheirShareOfConnections(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	_, bob := startPeople(t)
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) {
		r.env = append(r.env, "PUSHPROXY_LIMITS_CONNECTIONS=50")
	})
	open, refused := 0, 0
	for range 200 {
		c, err := bob.dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", r.Port))
		if err != nil {
			refused++
			continue
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, "GET /v2/ HTTP/1.1\r\nHost: localhost:")
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && !strings.Contains(err.Error(), "timeout") {
			refused++
		} else {
			open++
		}
	}
	if open > 50 || refused < 150 {
		t.Errorf("of 200 connections of one user %d are open and %d were refused, want 50 at most", open, refused)
	}
	r.api().want(t, http.StatusOK, "GET", "/v2/", nil)
	poll(t, "the log to say so", func() bool { return strings.Contains(r.Output(), "limits.connections") })
}

func TestS28HeadersHaveALimit(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	for _, c := range []struct {
		name, headers string
		status        int
	}{
		{"one of 60 KiB", "X: " + strings.Repeat("x", 60<<10) + "\r\n", 200},
		{"one of 100 KiB", "X: " + strings.Repeat("x", 100<<10) + "\r\n", 431},
		{"10,000 of them", strings.Repeat("X: 0123456789\r\n", 10_000), 431},
		{"a long path", "", 431},
	} {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.Port), patience)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		path := "/v2/"
		if c.headers == "" {
			path += strings.Repeat("a", 200<<10)
		}
		go func() { fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost:%d\r\n%s\r\n", path, r.Port, c.headers) }()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%s: %v, %v; want %d", c.name, resp, err, c.status)
		}
		_ = conn.Close()
	}
}

// A principal that has too many requests under way waits; another does not.
func TestS28S29OnePrincipalsRequestsAndBytesAreBounded(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	hold := newGate()
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	r := startRig(t, rec.URL, func(r *rig) {
		r.config.Auth = "token"
		r.env = append(r.env, "PUSHPROXY_LIMITS_REQUESTS=3", "PUSHPROXY_LIMITS_BYTES=100000")
		for _, name := range []string{"ann", "bob"} {
			r.config.Principals = append(r.config.Principals, parts.Principal{Name: name, Credentials: &parts.Credentials{DockerConfig: r.config.Credentials.DockerConfig}})
		}
	})
	ann := api{url: r.URL, user: parts.User{Name: "x", Password: r.newToken(t, "ann", "--principal", "ann")}}
	bob := api{url: r.URL, user: parts.User{Name: "x", Password: r.newToken(t, "bob", "--principal", "bob")}}
	// Bytes first: ann fills her quota, and bob has his.
	ann.pushBlob(t, killRepo, randomBytes(1, 90_000))
	over := randomBytes(2, 20_000)
	got := ann.want(t, http.StatusInsufficientStorage, "POST", "/v2/"+killRepo+"/blobs/uploads/?digest="+digestOf(over), over)
	if code, message := got.registryError(); code != "DENIED" || !strings.Contains(message, "quota") {
		t.Errorf("answered %v", got)
	}
	bob.pushBlob(t, killRepo, randomBytes(3, 90_000))
	ann.want(t, http.StatusOK, "GET", "/v2/"+killRepo+"/blobs/"+digestOf(randomBytes(1, 90_000)), nil)
	// Then requests.
	rec.setRule(func(_ http.ResponseWriter, q *http.Request) bool {
		if strings.HasSuffix(q.URL.Path, "/tags/list") {
			hold.wait(q.Context())
		}
		return false
	})
	var held sync.WaitGroup
	for range 3 {
		held.Go(func() {
			if resp, err := ann.send("GET", "/v2/"+killRepo+"/tags/list", nil); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	<-hold.waiting
	poll(t, "ann's requests to be too many", func() bool {
		return ann.do(t, "GET", "/v2/", nil).StatusCode == http.StatusTooManyRequests
	})
	if got := ann.do(t, "GET", "/v2/", nil); got.Header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After in %v", got)
	}
	bob.want(t, http.StatusOK, "GET", "/v2/", nil)
	close(hold.open)
	held.Wait()
	ann.want(t, http.StatusOK, "GET", "/v2/", nil)
}
