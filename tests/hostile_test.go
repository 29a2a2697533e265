package tests

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// Upstreams that want to keep pushproxy busy, or to fill its memory or disk.

// rawUpstream is a server whose answers no well-meaning library would write. It tells how many connections it had, and how
// many bytes of answers were taken from it.
type rawUpstream struct {
	URL         string
	connections atomic.Int64
	taken       atomic.Int64
}

// startRawUpstream answers each request with what answer writes, until that returns or its connection breaks.
func startRawUpstream(t *testing.T, answer func(w io.Writer, r *http.Request) error) *rawUpstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &rawUpstream{URL: "http://" + l.Addr().String()}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.connections.Add(1)
			t.Cleanup(func() { _ = c.Close() })
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					if answer(&takenWriter{c, &u.taken}, req) != nil {
						return
					}
				}
			}()
		}
	}()
	return u
}

type takenWriter struct {
	io.Writer
	n *atomic.Int64
}

func (w *takenWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n.Add(int64(n))
	return n, err
}

// endless writes a text again and again, 4 GiB of it at most.
func endless(w io.Writer, text string) error {
	chunk := []byte(strings.Repeat(text, 1+64<<10/len(text)))
	for n := 0; n < 4<<30; n += len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
	return io.EOF
}

func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

func TestS32AHostileUpstreamCostsLittleAndHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	program := pushproxyProgram(t, buildPlain)
	bomb := gzipOfZeros(1 << 30)
	var list []hostility
	const head = "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%s\r\n"
	for _, c := range []struct {
		name   string
		answer func(w io.Writer, r *http.Request) error
	}{
		{"headers without end", func(w io.Writer, _ *http.Request) error {
			_ = say(w, "HTTP/1.1 200 OK\r\n")
			return endless(w, "X-Header: "+strings.Repeat("x", 1000)+"\r\n")
		}},
		{"one header without end", func(w io.Writer, _ *http.Request) error {
			_ = say(w, "HTTP/1.1 200 OK\r\nX-Header: ")
			return endless(w, "x")
		}},
		{"a status line without end", func(w io.Writer, _ *http.Request) error { return endless(w, "HTTP/1.1 200 ") }},
		{"hints without end", func(w io.Writer, _ *http.Request) error {
			return endless(w, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		}},
		{"a refusal of 4 GiB", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 4294967296\r\n")
			return endless(w, "x")
		}},
		{"an error of 4 GiB", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "403 Forbidden", "Content-Length: 4294967296\r\n")
			return endless(w, `{"errors":[{"code":"DENIED","message":"`)
		}},
		{"content without end", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "200 OK", "")
			return endless(w, `{"name":"acme/app","tags":["a"]}`)
		}},
		{"chunks with extensions without end", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "200 OK", "Transfer-Encoding: chunked\r\n")
			return endless(w, "1;"+strings.Repeat("x", 2000)+"\r\n{\r\n")
		}},
		{"trailers without end", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "200 OK", "Transfer-Encoding: chunked\r\nTrailer: X\r\n")
			_ = say(w, "1\r\n{\r\n0\r\n")
			return endless(w, "X: "+strings.Repeat("x", 1000)+"\r\n")
		}},
		{"a gzip bomb that nobody asked for", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "200 OK", fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n", len(bomb)))
			_, err := w.Write(bomb)
			return err
		}},
		{"challenges without number", func(w io.Writer, _ *http.Request) error {
			return say(w, head, "401 Unauthorized", strings.Repeat("WWW-Authenticate: "+strings.Repeat(`Bearer realm="http://127.0.0.1:1/",`, 100)+"\r\n", 15)+"Content-Length: 0\r\n")
		}},
		{"a redirect to itself", func(w io.Writer, r *http.Request) error {
			return say(w, head, "307 Temporary Redirect", "Location: "+r.URL.Path+"\r\nContent-Length: 0\r\n")
		}},
		{"a next page that is the same", func(w io.Writer, r *http.Request) error {
			body := `{"name":"acme/app","tags":["a"],"schemaVersion":2,"manifests":[]}`
			return say(w, head+"%s", "200 OK", fmt.Sprintf("Link: <%s?n=1&last=a>; rel=\"next\"\r\nContent-Length: %d\r\n", r.URL.Path, len(body)), body)
		}},
		{"a rest for a thousand years", func(w io.Writer, _ *http.Request) error {
			return say(w, head, "429 Too Many Requests", "Retry-After: 31536000000\r\nContent-Length: 0\r\n")
		}},
		{"a length that is none", func(w io.Writer, _ *http.Request) error {
			_ = say(w, head, "200 OK", "Content-Length: 99999999999999999999\r\n")
			return io.EOF
		}},
		{"a digest of an absurd form", func(w io.Writer, _ *http.Request) error {
			return say(w, head+"{}", "200 OK", "Docker-Content-Digest: sha256:"+strings.Repeat("../", 1000)+"\r\nContent-Length: 2\r\n")
		}},
	} {
		list = append(list, hostility{c.name, startRawUpstream(t, c.answer)})
	}
	besiege(t, program, list, func(a api, host, name string) {
		for _, path := range []string{"/tags/list", "/manifests/v1", "/referrers/" + digestOf(nil)} {
			begin := time.Now()
			got := a.do(t, "GET", "/v2/"+host+"/acme/app"+path, nil)
			took := time.Since(begin)
			if took > time.Minute {
				t.Errorf("%s: GET %s took %s", name, path, took)
			}
			if len(got.body) > 64<<10 {
				t.Errorf("%s: GET %s is answered with %d bytes", name, path, len(got.body))
			}
			if got.StatusCode/100 == 2 && !strings.Contains(name, "next page") && !strings.Contains(name, "absurd") {
				t.Errorf("%s: GET %s is answered %v", name, path, got)
			}
			if took > 2*time.Second {
				return // what is tried again for a while was shown once
			}
		}
	})
}

// hostility is an upstream that means no good.
type hostility struct {
	name     string
	upstream *rawUpstream
}

// besiege runs one pushproxy before many hostile upstreams, asks each of them at the same time, and checks that it stays
// small and that a good upstream is served all the while.
func besiege(t *testing.T, program string, list []hostility, ask func(a api, host, name string)) {
	t.Helper()
	good := startUpstreamOf(t, `{"name":"acme/app","tags":["fine"]}`)
	hosts := map[string]parts.User{}
	r := startRig(t, good, func(r *rig) {
		r.program = program
		for i, h := range list {
			host := fmt.Sprintf("hostile-%d.test", i)
			hosts[host] = parts.Alice()
			r.config.Upstreams = append(r.config.Upstreams, parts.Upstream{Host: host, URL: h.upstream.URL})
		}
		writeFile(t, r.config.Credentials.DockerConfig, dockerConfigOf(hosts), 0o600)
	})
	before, stop, peak := anonymous(r.Pid()), make(chan struct{}), make(chan int64, 1)
	go sampleAnonymous(r.Pid(), stop, peak)
	var asking sync.WaitGroup
	for i, h := range list {
		asking.Go(func() { ask(r.api(), fmt.Sprintf("hostile-%d.test", i), h.name) })
	}
	done := make(chan struct{})
	go func() {
		asking.Wait()
		close(done)
	}()
	slowest := time.Duration(0)
	for under := true; under; {
		begin := time.Now()
		r.api().want(t, http.StatusOK, "GET", "/v2/"+killRepo+"/tags/list", nil)
		slowest = max(slowest, time.Since(begin))
		select {
		case <-done:
			under = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	if slowest > 5*time.Second {
		t.Errorf("the good upstream took up to %s", slowest)
	}
	close(stop)
	grown := <-peak - before
	t.Logf("anonymous memory grew by %d MiB, the good upstream took %s at most", grown>>20, slowest.Round(time.Millisecond))
	if grown > 96<<20 {
		t.Errorf("anonymous memory grew by %d MiB", grown>>20)
	}
	for _, h := range list {
		if h.upstream.connections.Load() == 0 {
			t.Errorf("%s: nobody asked, so nothing was shown", h.name)
		}
		// Three questions with five attempts each, and what the kernel holds.
		if taken := h.upstream.taken.Load(); taken > 128<<20 {
			t.Errorf("%s: %d MiB were taken from the upstream", h.name, taken>>20)
		}
	}
}

// startUpstreamOf is an upstream that answers everything with one text.
func startUpstreamOf(t *testing.T, text string) string {
	t.Helper()
	return startRawUpstream(t, func(w io.Writer, _ *http.Request) error {
		return say(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}).URL
}

func gzipOfZeros(size int) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		_, _ = w.Write(zeros)
	}
	_ = w.Close()
	return buf.Bytes()
}

// A token server that is the registry's own is no more to be believed than the registry.
func TestS32AHostileTokenServerCostsLittle(t *testing.T) {
	t.Parallel()
	program := pushproxyProgram(t, buildPlain)
	var list []hostility
	for _, c := range []struct {
		name string
		say  func(w io.Writer) error
	}{
		{"an answer of 4 GiB", func(w io.Writer) error {
			_ = say(w, "HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n{\"token\":\"")
			return endless(w, "x")
		}},
		{"a token of 60 KiB and a line break", func(w io.Writer) error {
			body := `{"token":"` + strings.Repeat("x", 60<<10) + `\r\nX-Injected: 1"}`
			return say(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}},
		{"headers without end", func(w io.Writer) error {
			_ = say(w, "HTTP/1.1 200 OK\r\n")
			return endless(w, "X: "+strings.Repeat("x", 1000)+"\r\n")
		}},
		{"deep nesting", func(w io.Writer) error {
			body := `{"token":` + strings.Repeat("[", 60<<10)
			return say(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}},
		{"a redirect elsewhere", func(w io.Writer) error {
			return say(w, "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/token\r\nContent-Length: 0\r\n\r\n")
		}},
		{"a life without end", func(w io.Writer) error {
			body := `{"token":"t","expires_in":1e308}`
			return say(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}},
	} {
		var hostile *rawUpstream
		hostile = startRawUpstream(t, func(w io.Writer, r *http.Request) error {
			if r.URL.Path == "/token" {
				return c.say(w)
			}
			if r.Header.Get("X-Injected") != "" {
				t.Error("a header came in by a token")
			}
			return say(w, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"%s/token\",service=\"x\"\r\nContent-Length: 0\r\n\r\n", hostile.URL)
		})
		list = append(list, hostility{c.name, hostile})
	}
	besiege(t, program, list, func(a api, host, name string) {
		begin := time.Now()
		got := a.do(t, "GET", "/v2/"+host+"/acme/app/tags/list", nil)
		if _, message := got.registryError(); got.StatusCode/100 == 2 || !strings.Contains(message, host) {
			t.Errorf("%s: answered %v", name, got)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("%s: it took %s", name, took)
		}
	})
}

// An upstream that does not answer holds up neither a client that only looks nor another upstream.
func TestS32AnUpstreamThatNeverAnswersHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	silent := startRawUpstream(t, func(_ io.Writer, r *http.Request) error { <-t.Context().Done(); return io.EOF })
	r := startRig(t, silent.URL, func(r *rig) {
		r.config.Upstreams = append(r.config.Upstreams, parts.Upstream{Host: "good.test", URL: startUpstreamOf(t, `{"name":"x","tags":[]}`)})
	})
	ended := make(chan time.Duration, 20)
	for i := range cap(ended) {
		go func() {
			begin := time.Now()
			resp, err := r.api().send("HEAD", "/v2/"+killRepo+"/blobs/"+digestOf([]byte{byte(i)}), nil)
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusNotFound {
					t.Errorf("a look at a silent upstream is answered %s", resp.Status)
				}
			}
			ended <- time.Since(begin)
		}()
	}
	poll(t, "the silent upstream to be asked", func() bool { return silent.connections.Load() > 0 })
	for range 20 {
		begin := time.Now()
		r.api().want(t, http.StatusOK, "GET", "/v2/good.test/acme/app/tags/list", nil)
		if took := time.Since(begin); took > 8*time.Second { // who waits for the silent one waits for ten
			t.Errorf("the other upstream took %s", took)
		}
	}
	for range cap(ended) {
		if took := <-ended; took > 20*time.Second {
			t.Errorf("a look took %s", took)
		}
	}
}

// A blob that has no end stops when its client does, and leaves nothing.
func TestS32ABlobWithoutEndEndsWithItsClient(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	ended := make(chan struct{}, 1)
	hostile := startRawUpstream(t, func(w io.Writer, r *http.Request) error {
		if r.Method != "GET" || !strings.Contains(r.URL.Path, "/blobs/") {
			return say(w, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		}
		_ = say(w, "HTTP/1.1 200 OK\r\n\r\n")
		err := endless(w, "x")
		ended <- struct{}{}
		return err
	})
	r := startRig(t, hostile.URL, nil)
	resp, err := r.api().send("GET", "/v2/"+killRepo+"/blobs/"+digestOf([]byte("any")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 8<<20); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the upstream still sends, and nobody wants it")
	}
	poll(t, "what came of it to be dropped", func() bool {
		out, _, err := r.run(t, "gc", "--json")
		return err == nil && (strings.Contains(out, `"Blobs": 0`) || strings.Contains(out, `"blobs": 0`))
	})
}

// quickRegistry answers at once that there is nothing, and takes whatever is pushed.
func quickRegistry(w io.Writer, r *http.Request) error {
	answer := "404 Not Found"
	header := ""
	switch {
	case r.URL.Path == "/v2/", strings.HasSuffix(r.URL.Path, "/tags/list"):
		answer = "200 OK"
	case r.Method == "POST":
		answer, header = "202 Accepted", "Location: "+r.URL.Path+"1\r\n"
	case r.Method == "PUT", r.Method == "PATCH":
		answer, header = "201 Created", "Docker-Content-Digest: "+r.URL.Query().Get("digest")+"\r\n"
	case r.Method == "DELETE":
		answer = "204 No Content"
	}
	if r.Method == "HEAD" || answer == "204 No Content" {
		return say(w, "HTTP/1.1 %s\r\n%s\r\n", answer, header)
	}
	return say(w, "HTTP/1.1 %s\r\n%sContent-Length: 2\r\n\r\n{}", answer, header)
}
