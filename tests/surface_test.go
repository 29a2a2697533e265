package tests

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What other programs of this machine, and pages in its browsers, can reach.

func TestS6OnlyItsOwnNamesAreServed(t *testing.T) {
	t.Parallel()
	r := startTraced(t)
	for _, c := range []struct {
		host string
		fine bool
	}{
		{"localhost:PORT", true}, {"127.0.0.1:PORT", true}, {"[::1]:PORT", true}, {"LOCALHOST:PORT", true},
		{"evil.test:PORT", false}, {"localhost.evil.test:PORT", false}, {"localhost.:PORT", false}, {"localhost", false},
		{"localhost:1", false}, {"127.0.0.2:PORT", false}, {"[::ffff:7f00:1]:PORT", false}, {"user@localhost:PORT", false}, {"", false},
		{upstreamName, false}, {"localhost:PORT,evil.test", false},
	} {
		host := strings.ReplaceAll(c.host, "PORT", fmt.Sprint(r.Port))
		for _, path := range []string{"/v2/", "/v2/" + killRepo + "/tags/list", "/", "/healthz", "/metrics"} {
			status := rawGet(t, r.Port, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			refused := status == http.StatusMisdirectedRequest || status == http.StatusForbidden || status == http.StatusBadRequest
			if refused == c.fine {
				t.Errorf("GET %s for the host %q is answered %d", path, host, status)
			}
		}
	}
	twice := fmt.Sprintf("GET /v2/ HTTP/1.1\r\nHost: localhost:%d\r\nHost: evil.test\r\nConnection: close\r\n\r\n", r.Port)
	if status := rawGet(t, r.Port, twice); status/100 == 2 {
		t.Errorf("two Host headers are answered %d", status)
	}
}

func TestS7AWebPageCannotUseTheCredential(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	for _, c := range []struct {
		name   string
		header []string
	}{
		{"from another origin", []string{"Origin", "https://evil.test"}},
		{"from an opaque origin", []string{"Origin", "null"}},
		{"from a page on localhost", []string{"Origin", "http://localhost:3000"}},
		{"across sites", []string{"Sec-Fetch-Site", "cross-site"}},
		{"from a site beside", []string{"Sec-Fetch-Site", "same-site"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := append([]string{"Content-Type", "text/plain"}, c.header...)
			for method, path := range map[string]string{
				"POST":   "/blobs/uploads/?mount=" + digestOf(nil) + "&from=" + upstreamName + "/acme/other",
				"PUT":    "/manifests/v1",
				"GET":    "/tags/list",
				"DELETE": "/manifests/v1",
			} {
				got := p.api().do(t, method, "/v2/"+killRepo+path, []byte("{}"), header...)
				if got.StatusCode != http.StatusForbidden {
					t.Errorf("%s %s is answered %v", method, path, got)
				}
				for name := range got.Header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s %s is answered with %s", method, path, name)
					}
				}
			}
		})
	}
	if got := p.rec.requests(); len(got) > 0 {
		t.Errorf("refused requests went upstream:\n%s", got)
	}
}

func TestTheListenersAreOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		ip, isNet := addr.(*net.IPNet)
		if !isNet || ip.IP.IsLoopback() || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), fmt.Sprint(r.Port)), time.Second)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s answers", conn.RemoteAddr())
		}
	}
}

func TestTheSamePortServesHTTPAndHTTPS(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(t, filepath.Join(r.config.DataDir, "ca", "ca.pem"))))
	both, second := &http.Protocols{}, &http.Protocols{}
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	second.SetHTTP2(true)
	for want, speaks := range map[string]*http.Protocols{"HTTP/1.1": both, "HTTP/2.0": second} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: speaks}
		client := &http.Client{Timeout: time.Minute, Transport: transport}
		for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
			got := api{url: fmt.Sprintf("https://%s:%d", host, r.Port), client: client}.want(t, http.StatusOK, "GET", "/v2/", nil)
			wantEqual(t, "the protocol", got.Proto, want)
			wantEqual(t, "the body", string(got.body), "{}")
		}
		transport.CloseIdleConnections()
	}
}

func TestWithoutTLSAClientIsToldAtOnceThatThisIsPlainHTTP(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) { r.config.TLS = "off" })
	begin := time.Now()
	_, err := api{url: fmt.Sprintf("https://127.0.0.1:%d", r.Port)}.send("GET", "/v2/", nil)
	if err == nil || time.Since(begin) > 8*time.Second { // a header is waited for ten seconds
		t.Errorf("a TLS handshake ended after %s with %v: docker and containerd fall back to HTTP on a quick failure only", time.Since(begin), err)
	}
}

func TestThePingIsWhatClientsExpect(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", nil)
	for _, host := range []string{"127.0.0.1", "[::1]", "localhost"} {
		got := api{url: fmt.Sprintf("http://%s:%d", host, r.Port)}.want(t, http.StatusOK, "GET", "/v2/", nil)
		wantEqual(t, "the version header", got.Header.Get("Docker-Distribution-API-Version"), "registry/2.0")
		wantEqual(t, "the body", string(got.body), "{}")
	}
}

// rawGet sends bytes and returns the status of the answer, 400 when the connection is closed without one.
func rawGet(t *testing.T, port int, request string) int {
	t.Helper()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return http.StatusBadRequest
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// What tells about this program and its users is not on the doors that clients knock on.
func TestS9TheDoorsTellNothingAboutTheProgram(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	for _, path := range []string{
		"/", "/metrics", "/healthz", "/livez", "/readyz", "/debug", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1", "/debug/vars", "/debug/requests", "/debug/events",
		"/status", "/v1/status", "/v1/pushes", "/v1/events", "/v1/jobs", "/v1/gc", "/v1/wait?ref=x", "/admin", "/api", "/v2/_catalog", "/v2/debug/pprof/heap", "/v2/metrics", "/v1/_ping", "/_ping", "/server-status", "/assets/page.js",
	} {
		for name, a := range map[string]api{
			"the registry door": d.api(), "the forward-proxy door": {url: "http://" + d.proxy}, "a tunnel": d.inTunnel(t),
		} {
			for _, method := range []string{"GET", "POST"} {
				got := a.do(t, method, path, nil)
				if got.StatusCode/100 != 4 {
					t.Errorf("%s: %s %s is answered %v", name, method, path, got.Status)
				}
				for _, word := range []string{"goroutine ", "memstats", "cmdline", "pushproxy_", "heap profile", d.home} {
					if strings.Contains(string(got.body), word) {
						t.Errorf("%s: %s %s tells %q: %.200s", name, method, path, word, got.body)
					}
				}
			}
		}
	}
	info, err := os.Stat(filepath.Join(d.config.DataDir, "admin.sock"))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the socket for its owner: %v, %v", info, err)
	}
}
