package tests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// What clients write into logs and metrics, and what they smuggle past their own request.

var unprintable = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]`)

func TestS30ClientsForgeNoLineAndNoSeries(t *testing.T) {
	t.Parallel()
	program := pushproxyProgram(t, buildPlain)
	upstream := startRawUpstream(t, func(w io.Writer, r *http.Request) error {
		if r.Method == "HEAD" {
			return say(w, "HTTP/1.1 404 Not Found\r\n\r\n")
		}
		text := `{"errors":[{"code":"X","message":"from the upstream\nlevel=ERROR msg=forged \u001b[31m"}]}`
		return say(w, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	})
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			r := startRig(t, upstream.URL, func(r *rig) {
				r.program = program
				r.config.Log = &parts.Log{Level: "debug", Format: format}
			})
			series := func() int { return strings.Count(r.metrics(t), "\n") }
			conn := newRawClient(t, r.Port)
			ask := func(i int) {
				forged := fmt.Sprintf("x%d%%0a%%0dlevel=ERROR%%20msg=forged%%1b[31m%%22}%%0a{%%22msg%%22:%%22forged%%22", i)
				conn.ask("GET", fmt.Sprintf("/v2/%s/repo%d/manifests/tag%d", upstreamName, i, i), "User-Agent", "a\x1b[31m\"b", "Accept", typeManifest)
				conn.ask("GET", "/v2/"+upstreamName+"/"+forged+"/tags/list", "X-Forwarded-For", "forged")
				conn.ask("GET", fmt.Sprintf("/v2/host%d.test/app/tags/list", i))
				conn.ask(fmt.Sprintf("M%d", i), "/v2/"+forged)
			}
			for i := range 50 {
				ask(i)
			}
			before := series()
			const more = 2500 // of four requests each
			for i := range more {
				ask(100 + i)
			}
			after := series()
			if after > before+5 || after > 500 {
				t.Errorf("%d lines of metrics after 200 requests, %d after %d", before, after, 4*(more+50))
			}
			lines := 0
			for line := range strings.Lines(r.Output()) {
				lines++
				line = strings.TrimSuffix(line, "\n")
				if unprintable.MatchString(line) {
					t.Fatalf("the log holds control characters: %q", line)
				}
				if format == "json" && !json.Valid([]byte(line)) || format == "text" && !strings.HasPrefix(line, "time=") {
					t.Fatalf("a line that is none of pushproxy's: %q", line)
				}
				if len(line) > 4096 {
					t.Fatalf("a line of %d bytes: %.200q…", len(line), line)
				}
			}
			// Two lines of debug at most for each, and what else there is to say.
			if lines < more || lines > 4*(more+50)*2+100 {
				t.Errorf("%d lines for %d requests", lines, 4*(more+50))
			}
			for line := range strings.Lines(readFile(t, filepath.Join(r.config.DataDir, "audit.log"))) {
				var entry map[string]any
				if err := json.Unmarshal([]byte(line), &entry); err != nil || entry["principal"] == nil {
					t.Fatalf("a line of the audit log that is none: %q", line)
				}
			}
		})
	}
}

// metrics are what the socket answers with.
func (r *rig) metrics(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(r.config.DataDir, "admin.sock")
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	return string(api{url: "http://localhost", client: client}.want(t, http.StatusOK, "GET", "/metrics", nil).body)
}

func TestS31NoSecondRequestIsSmuggled(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	pushSmall(t, p.api(), killRepo)
	upload := p.api().begin(t, killRepo)
	host := fmt.Sprintf("Host: localhost:%d\r\n", p.Port)
	const hidden = "GET /v2/" + upstreamName + "/acme/hidden/tags/list HTTP/1.1\r\n"
	// Go's server takes chunks for the body where there is a length, too (RFC 9112, section 6.3), and goes on with what follows.
	// That is a request of its own, which is looked at as any other.
	const strange = "Host: evil.test\r\n\r\n"
	for _, c := range []struct{ name, request string }{
		{"a length and chunks", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden + strange},
		{"chunks and a length", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + hidden + strange},
		{"two lengths", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 0\r\n\r\n" + hidden + host + "\r\n"},
		{"a length that is a list", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Content-Length: 3, 3\r\n\r\nabc" + hidden + host + "\r\n"},
		{"a length with a sign", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\nabc" + hidden + host + "\r\n"},
		{"a coding that nobody knows", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden + host + "\r\n"},
		{"a coding with a space before the colon", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden + host + "\r\n"},
		{"a folded header", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Transfer-Encoding:\r\n chunked, x\r\n\r\n0\r\n\r\n" + hidden + host + "\r\n"},
		{"a line feed in the path", "GET /v2/a\n" + hidden + host + "\r\n"},
		{"a carriage return in a header", "GET /v2/ HTTP/1.1\r\n" + host + "X: a\r" + hidden + "\r\n"},
		{"a nul in a header", "GET /v2/ HTTP/1.1\r\n" + host + "X: a\x00b\r\n" + "\r\n"},
		{"chunks in HTTP/1.0", "PATCH " + upload + " HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden + host + "\r\n"},
		{"a chunk size with a sign", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + hidden + host + "\r\n"},
		{"a chunk size that overflows", "PATCH " + upload + " HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + hidden + host + "\r\n"},
		{"another version", "GET /v2/ HTTP/1.2\r\n" + host + "\r\n"},
		{"the preface of HTTP/2 in the clear", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{"an upgrade to HTTP/2 in the clear", "GET /v2/ HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.rec.reset()
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port), patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, c.request)
			var answers []int
			for r := bufio.NewReader(conn); ; {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					break
				}
				if resp.StatusCode == http.StatusSwitchingProtocols {
					t.Errorf("the protocol was changed to %q", resp.Header.Get("Upgrade"))
				}
				answers = append(answers, resp.StatusCode)
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.Close {
					break
				}
				_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			}
			if strings.Contains(p.rec.reset().String(), "hidden") {
				t.Error("the hidden request was carried out")
			}
			if len(answers) > 1 && (!strings.HasSuffix(c.request, strange) || answers[1] != http.StatusMisdirectedRequest) {
				t.Errorf("one request is answered %v", answers)
			}
		})
	}
	// After all that, the door and the upload are as before.
	p.api().want(t, http.StatusNoContent, "GET", upload, nil)
}

// Only what a registry needs goes upstream, whatever a client sends and nominates as belonging to the connection.
func TestS31HeadersOfClientsStayHere(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	random := rand.New(rand.NewPCG(31, uint64(time.Now().UnixNano())))
	allowed := map[string]bool{
		"Accept": true, "Accept-Encoding": true, "Authorization": true, "User-Agent": true, "Content-Type": true, "Content-Length": true, "Content-Range": true,
		"Range": true, "If-None-Match": true, "Pushproxy-Hop": true, "Connection": true, "Transfer-Encoding": true, "Expect": true,
	}
	secret := "client-" + canary
	seen := 0
	r := startUpstream(t, func(w http.ResponseWriter, q *http.Request) {
		seen++
		for name, values := range q.Header {
			if !allowed[name] || strings.Contains(strings.Join(values, " "), secret) {
				t.Errorf("%s %s has the header %s: %q", q.Method, q.URL.Path, name, values)
			}
		}
		if strings.Contains(q.URL.RawQuery+q.URL.Path, secret) {
			t.Errorf("the upstream is asked for %s", q.URL)
		}
		w.WriteHeader(http.StatusNotFound)
	}, nil)
	names := []string{
		"Cookie", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Forwarded", "Via", "X-Secret", "Proxy-Authorization", "Te", "Trailer", "Keep-Alive", "Upgrade-Insecure-Requests",
		"Referer", "If-Match", "X-Amz-Security-Token", "Docker-Content-Digest", "X-Registry-Auth", "X-Http-Method-Override", "X-Original-Url", "Content-Encoding", "Traceparent", "Baggage",
	}
	for i := range 300 {
		header := []string{"Connection", "X-Secret, Authorization, Accept"}
		for range random.IntN(12) {
			header = append(header, names[random.IntN(len(names))], secret)
		}
		method := []string{"GET", "HEAD", "GET", "DELETE"}[i%4]
		path := []string{"/tags/list?token=" + secret, "/blobs/" + digestOf([]byte{byte(i)}) + "?access_token=" + secret, "/manifests/t?x=" + secret, "/manifests/" + digestOf([]byte{byte(i)})}[i%4]
		resp, err := r.api().send(method, "/v2/"+killRepo+path, nil, header...)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if seen < 100 {
		t.Errorf("the upstream was asked %d times, so little was shown", seen)
	}
}
