package tests

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// The ways in which intercepting proxies have been abused (trust.md section 5), tried on the built program.

func TestS35ATunnelReachesItsOwnUpstreamOnly(t *testing.T) {
	t.Parallel()
	tr := startTrap(t)
	d := startDoors(t, func(r *rig) {
		r.config.Upstreams = append(r.config.Upstreams, parts.Upstream{Host: "other.test", URL: tr.URL})
	})
	path := "/v2/team/app/tags/list"
	for _, c := range []struct{ name, request string }{
		{"another Host", "GET " + path + " HTTP/1.1\r\nHost: other.test\r\n\r\n"},
		{"another Host with a port", "GET " + path + " HTTP/1.1\r\nHost: other.test:443\r\n\r\n"},
		{"an absolute URI", "GET https://other.test" + path + " HTTP/1.1\r\nHost: " + upstreamName + "\r\n\r\n"},
		{"an absolute URI in the clear", "GET " + tr.URL + path + " HTTP/1.1\r\nHost: " + upstreamName + "\r\n\r\n"},
		{"two Hosts", "GET " + path + " HTTP/1.1\r\nHost: " + upstreamName + "\r\nHost: other.test\r\n\r\n"},
		{"a tunnel in the tunnel", "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n"},
		{"a request from a page", "GET " + path + " HTTP/1.1\r\nHost: " + upstreamName + "\r\nOrigin: https://evil.test\r\n\r\n"},
		{"a request of a pushproxy", "GET " + path + " HTTP/1.1\r\nHost: " + upstreamName + "\r\nPushproxy-Hop: 1\r\n\r\n"},
	} {
		raw, _ := d.tunnel(t, upstreamName+":443")
		if status := rawAsk(t, d.secure(t, raw, upstreamName), c.request); status < 400 {
			t.Errorf("%s is answered %d", c.name, status)
		}
	}
	// What the tunnel leads to decides, whatever the client names beside it.
	raw, _ := d.tunnel(t, upstreamName+":443")
	request := "GET " + path + "?ns=other.test HTTP/1.1\r\nHost: " + upstreamName + "\r\n\r\n"
	if status := rawAsk(t, d.secure(t, raw, upstreamName), request); status != http.StatusNotFound {
		t.Errorf("?ns= in a tunnel is answered %d", status)
	}
	if visits, _ := tr.seen(); len(visits) > 0 {
		t.Errorf("the other upstream was asked: %v", visits)
	}
}

func rawAsk(t *testing.T, c net.Conn, request string) int {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return http.StatusBadRequest // cut
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestS35PlainTextInATunnelIsNotForwarded(t *testing.T) {
	t.Parallel()
	tr := startTrap(t)
	d := startDoors(t, nil)
	raw, _ := d.tunnel(t, upstreamName+":443")
	if status := rawAsk(t, raw, "GET / HTTP/1.1\r\nHost: "+strings.TrimPrefix(tr.URL, "http://")+"\r\n\r\n"); status != http.StatusBadRequest {
		t.Errorf("plain text is answered %d", status)
	}
	if visits, _ := tr.seen(); len(visits) > 0 {
		t.Errorf("it was forwarded: %v", visits)
	}
}

func TestS35TheForwardProxyDoorIsNoOpenProxy(t *testing.T) {
	t.Parallel()
	tr := startTrap(t)
	for _, others := range []bool{false, true} {
		d := startDoors(t, func(r *rig) { r.config.ForwardProxy.TunnelOthers = others })
		host := strings.TrimPrefix(tr.URL, "http://")
		for _, request := range []string{
			"GET " + tr.URL + "/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
			"PUT " + tr.URL + "/ HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 1\r\n\r\nx",
		} {
			c, err := net.DialTimeout("tcp", d.proxy, patience)
			if err != nil {
				t.Fatal(err)
			}
			if status := rawAsk(t, c, request); status != http.StatusForbidden {
				t.Errorf("%.30q is answered %d", request, status)
			}
			_ = c.Close()
		}
		for _, authority := range []string{host, "127.0.0.1:443", "localhost:443", "[::1]:443", "169.254.169.254:443", "[::ffff:127.0.0.1]:443", "10.0.0.1:443", "0.0.0.0:443", d.proxy, upstreamName + ":80"} {
			if _, resp := d.tunnel(t, authority); resp.StatusCode < 400 {
				t.Errorf("with tunnel_others %v: CONNECT %s is answered %s", others, authority, resp.Status)
			}
		}
	}
	if visits, _ := tr.seen(); len(visits) > 0 {
		t.Errorf("a host that is no registry was reached: %v", visits)
	}
}

func TestS35AnUploadInATunnelMayAskBeforeItSends(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	location := d.inTunnel(t).begin(t, "team/app")
	raw, _ := d.tunnel(t, upstreamName+":443")
	c := d.secure(t, raw, upstreamName)
	body := "asked first"
	fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", withDigest(location, digestOf([]byte(body))), upstreamName, len(body))
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, " 100 ") {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = r.ReadString('\n')
	fmt.Fprint(c, body)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("got %v, %v", resp, err)
	}
}

func TestS28S35TunnelsHaveTheLimitsOfTheDoor(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	t.Run("headers", func(t *testing.T) {
		t.Parallel()
		raw, _ := d.tunnel(t, upstreamName+":443")
		c := d.secure(t, raw, upstreamName)
		go func() {
			// The server stops reading; what cannot be written is its right.
			_, _ = fmt.Fprintf(c, "GET /v2/ HTTP/1.1\r\nHost: %s\r\nX: %s\r\n\r\n", upstreamName, strings.Repeat("x", 1<<20))
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %v, %v", resp, err)
		}
	})
	for name, prepare := range map[string]func(c net.Conn) net.Conn{
		"a handshake that never comes": func(c net.Conn) net.Conn { return c },
		"a request that never ends": func(c net.Conn) net.Conn {
			inner := d.secure(t, c, upstreamName)
			_, _ = io.WriteString(inner, "GET /v2/ HTTP/1.1\r\nHost: ")
			return inner
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, _ := d.tunnel(t, upstreamName+":443")
			c := prepare(raw)
			begin := time.Now()
			if _, err := c.Read(make([]byte, 1)); err == nil || time.Since(begin) > 20*time.Second {
				t.Errorf("after %s: %v", time.Since(begin), err)
			}
		})
	}
}

func TestS35AnUpstreamThatIsDownIsAnsweredInsideTheTunnel(t *testing.T) {
	t.Parallel()
	d := startDoors(t, func(r *rig) { r.config.Upstreams[0].URL = "https://127.0.0.1:1" })
	got := d.inTunnel(t).do(t, "GET", "/v2/team/app/tags/list", nil)
	if code, message := got.registryError(); got.StatusCode != http.StatusBadGateway || code == "" || !strings.Contains(message, upstreamName) {
		t.Errorf("got %v", got)
	}
}

func TestAStopLetsAnUploadInATunnelFinish(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	location := d.inTunnel(t).begin(t, "team/app")
	raw, _ := d.tunnel(t, upstreamName+":443")
	c := d.secure(t, raw, upstreamName)
	fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\n01234", location, upstreamName)
	// The body's first half is there once the door asks for nothing more: the log is the only witness that it runs.
	poll(t, "the other listener of the door to be asked", func() bool {
		return d.inTunnel(t).do(t, "GET", "/v2/", nil).StatusCode == http.StatusOK
	})
	go d.Stop()
	poll(t, "the stop to begin", func() bool { return strings.Contains(d.Output(), "stopping") })
	if _, err := net.DialTimeout("tcp", d.proxy, time.Second); err == nil {
		poll(t, "the listener to close", func() bool {
			c, err := net.DialTimeout("tcp", d.proxy, time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
	}
	fmt.Fprint(c, "56789")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusAccepted || resp.Header.Get("Range") != "0-9" {
		t.Fatalf("got %v, %v", resp, err)
	}
	<-d.Done()
}

func TestS34S35TenThousandConnectsLeaveMemoryFlat(t *testing.T) {
	if testing.Short() {
		leftOut(t, "ten thousand connections, and -short was asked for")
	}
	program := pushproxyProgram(t, buildPlain)
	d := startDoors(t, func(r *rig) { r.program = program })
	work := make(chan int)
	failed := make(chan error, 8)
	pool := d.pool(t)
	for range 8 {
		go func() {
			var first error
			for i := range work {
				if err := connectOnce(d.proxy, i, &tls.Config{RootCAs: pool, ServerName: upstreamName}); err != nil && first == nil {
					first = err
				}
			}
			failed <- first
		}()
	}
	var before int64
	for i := range 10_000 {
		if i == 1000 {
			before = anonymous(d.Pid())
		}
		work <- i
	}
	close(work)
	for range 8 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	after := anonymous(d.Pid())
	t.Logf("anonymous memory after 1,000 connections: %d MiB, after 10,000: %d MiB", before>>20, after>>20)
	if after > before+(32<<20) {
		t.Errorf("9,000 connections cost %d MiB", (after-before)>>20)
	}
}

// connectOnce asks for a host that is refused, each time another, and every fourth time for the upstream.
func connectOnce(proxy string, i int, config *tls.Config) error {
	c, err := net.DialTimeout("tcp", proxy, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	host, want := fmt.Sprintf("host-%d.test", i), http.StatusNotFound
	if i%4 == 0 {
		host, want = upstreamName, http.StatusOK
	}
	fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", host, host)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("CONNECT %s is answered %s", host, resp.Status)
	}
	if want == http.StatusOK {
		return tls.Client(c, config).Handshake()
	}
	return nil
}
