package tests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// What other programs of this machine, and pages in its browsers, can reach of the status page.

// withStatus adds a status listener to a rig; its port is in the configuration.
func withStatus(t *testing.T) func(*rig) {
	port := freePort(t)
	return func(r *rig) { r.config.StatusListen = []string{fmt.Sprintf("127.0.0.1:%d", port)} }
}

func (r *rig) statusPort() int {
	_, port, _ := net.SplitHostPort(r.config.StatusListen[0])
	n, _ := strconv.Atoi(port)
	return n
}

// status speaks to the status listener.
func (r *rig) status(user ...parts.User) api {
	a := api{url: "http://" + r.config.StatusListen[0]}
	if len(user) > 0 {
		a.user = user[0]
	}
	return a
}

// statusPaths are what the status listener answers, and what it must not.
var statusPaths = []string{"/", "/v1/status", "/v1/pushes", "/v1/pushes/x", "/v1/events", "/metrics", "/livez", "/readyz", "/push/x", "/assets/page.js", "/nothing"}

func TestS6TheStatusPageServesItsOwnNamesOnly(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", withStatus(t))
	port := r.statusPort()
	for _, c := range []struct {
		host string
		fine bool
	}{
		{"localhost:PORT", true}, {"127.0.0.1:PORT", true}, {"[::1]:PORT", true}, {"LOCALHOST:PORT", true},
		{"evil.test:PORT", false}, {"localhost.evil.test:PORT", false}, {"localhost.:PORT", false}, {"localhost", false}, {"localhost:1", false},
		{"127.0.0.2:PORT", false}, {"[::ffff:7f00:1]:PORT", false}, {"user@localhost:PORT", false}, {"", false}, {upstreamName, false},
		{"localhost:PORT,evil.test", false}, {fmt.Sprintf("localhost:%d", r.Port), false},
	} {
		host := strings.ReplaceAll(c.host, "PORT", strconv.Itoa(port))
		for _, path := range statusPaths {
			if path == "/v1/events" && c.fine {
				continue // it does not end
			}
			status := rawGet(t, port, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			refused := status == http.StatusMisdirectedRequest || status == http.StatusBadRequest
			if refused == c.fine {
				t.Errorf("GET %s for the host %q is answered %d", path, host, status)
			}
		}
	}
	twice := fmt.Sprintf("GET /v1/status HTTP/1.1\r\nHost: localhost:%d\r\nHost: evil.test\r\nConnection: close\r\n\r\n", port)
	if status := rawGet(t, port, twice); status/100 == 2 {
		t.Errorf("two Host headers are answered %d", status)
	}
}

func TestS7AnotherWebSiteCanNeitherReadTheStatusPageNorPressItsButtons(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", withStatus(t))
	own := r.status().url
	for _, c := range []struct {
		name   string
		header []string
		fine   bool
	}{
		{"a typed address", []string{"Sec-Fetch-Site", "none"}, true},
		{"the page itself", []string{"Sec-Fetch-Site", "same-origin", "Origin", own}, true},
		{"an old browser's page itself", []string{"Origin", own}, true},
		{"another origin", []string{"Origin", "https://evil.test"}, false},
		{"an opaque origin", []string{"Origin", "null"}, false},
		{"a page on localhost", []string{"Origin", "http://localhost:3000"}, false},
		{"the registry door's port", []string{"Origin", r.URL}, false},
		{"another site", []string{"Sec-Fetch-Site", "cross-site"}, false},
		{"a site beside", []string{"Sec-Fetch-Site", "same-site"}, false},
	} {
		for _, request := range [][2]string{
			{"GET", "/"}, {"GET", "/v1/status"}, {"GET", "/v1/pushes"}, {"GET", "/metrics"}, {"POST", "/v1/gc"}, {"POST", "/v1/jobs/x/retry"}, {"POST", "/v1/jobs/x/drop"},
			{"DELETE", "/v1/jobs/x"},
		} {
			got := r.status().do(t, request[0], request[1], nil, c.header...)
			if refused := got.StatusCode == http.StatusForbidden; refused == c.fine {
				t.Errorf("%s: %s %s is answered %v", c.name, request[0], request[1], got)
			}
			for name := range got.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s is answered with %s", request[0], request[1], name)
				}
			}
		}
	}
}

func TestS8WhatTheStatusPageServesRunsNothingOfOthers(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", withStatus(t))
	for _, path := range statusPaths {
		if path == "/v1/events" {
			continue
		}
		h := r.status().do(t, "GET", path, nil).Header
		policy := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("GET %s: the policy %q lacks %s", path, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %s: %v", path, h)
		}
	}
}

func TestS9NoListenerHasDebuggingAids(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", withStatus(t))
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/debug/requests", "/pprof", "/vars"} {
		for what, a := range map[string]api{"the registry door": r.api(), "the status page": r.status()} {
			if got := a.do(t, "GET", path, nil); got.StatusCode != http.StatusNotFound {
				t.Errorf("%s answers GET %s with %v", what, path, got)
			}
		}
	}
	if got := r.api().do(t, "GET", "/metrics", nil); got.StatusCode != http.StatusNotFound {
		t.Errorf("the registry door answers GET /metrics with %v", got)
	}
	if info, err := os.Stat(filepath.Join(r.config.DataDir, "admin.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

func TestS9AnotherPrincipalSeesNothing(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	reg := startRegistry(t, parts.RegistryConfig{})
	r := startRig(t, reg.URL, func(r *rig) {
		r.config.Auth, r.config.StatusListen = "token", []string{fmt.Sprintf("127.0.0.1:%d", port)}
		r.config.Principals = []parts.Principal{{Name: "ann"}, {Name: "bob"}}
	})
	users := map[string]parts.User{}
	for _, name := range []string{"ann", "bob", "local"} {
		users[name] = parts.User{Name: "x", Password: r.newToken(t, name, "--principal", name)}
	}
	limited := parts.User{Name: "x", Password: r.newToken(t, "ci", "--principal", "local", "--repository", "acme/*")}
	ann := r.api()
	ann.user = users["ann"]
	ann.pushManifest(t, upstreamName+"/secret/project", "v1", artifactOf(t, ann.pushBlob(t, upstreamName+"/secret/project", []byte("{}")), ann.pushBlob(t, upstreamName+"/secret/project", randomBytes(3, 3000))))
	ann.pushBlob(t, upstreamName+"/secret/next", randomBytes(4, 3000))

	read := func(user parts.User, path string) string {
		got := r.status(user).do(t, "GET", path, nil)
		return fmt.Sprint(got.StatusCode) + " " + string(got.body)
	}
	own := read(users["ann"], "/v1/status")
	found := regexp.MustCompile(`"id":"([a-z2-7]{10})"`).FindAllStringSubmatch(own, -1)
	if len(found) != 2 || !strings.Contains(own, "secret/project") {
		t.Fatalf("ann sees %s", own)
	}
	for _, path := range []string{"/v1/status", "/v1/pushes", "/v1/pushes?q=secret", "/", "/push/" + found[1][1], "/v1/pushes/" + found[1][1], "/v1/pushes/" + found[0][1], "/metrics"} {
		for name, user := range map[string]parts.User{"bob": users["bob"], "a limited token": limited} {
			got := strings.ReplaceAll(read(user, path), "q=secret", "")
			if strings.Contains(got, "secret/") || strings.Contains(got, "pushproxy_") || strings.Contains(path, found[1][1]) && !strings.HasPrefix(got, "404") {
				t.Errorf("%s reads %s: %s", name, path, got)
			}
		}
		if got := r.status().do(t, "GET", path, nil); got.StatusCode != http.StatusUnauthorized {
			t.Errorf("nobody reads %s: %v", path, got)
		}
	}
	if got := read(users["bob"], "/v1/status"); !strings.Contains(got, `"live_bytes":0`) {
		t.Errorf("bob is told how much there is in the store, which others' pushes change: %s", got)
	}
	if got := r.status(users["bob"]).do(t, "POST", "/v1/gc", nil); got.StatusCode != http.StatusForbidden {
		t.Errorf("bob collects: %v", got)
	}
	if got := read(users["local"], "/v1/status"); !strings.Contains(got, "secret/project") {
		t.Errorf("the owner sees %s", got)
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if got := r.status().do(t, "GET", path, nil); got.StatusCode != http.StatusOK {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestS28TheStatusPageBoundsHeadersAndPatience(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", withStatus(t))
	port := r.statusPort()
	long := fmt.Sprintf("GET / HTTP/1.1\r\nHost: localhost:%d\r\nX-Long: %s\r\n\r\n", port, strings.Repeat("a", 1<<20))
	if status := rawGet(t, port, long); status != http.StatusRequestHeaderFieldsTooLarge && status != http.StatusBadRequest {
		t.Errorf("a header of 1 MiB is answered %d", status)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost:%d\r\nX-Slow: ", port)
	_ = conn.SetReadDeadline(began.Add(30 * time.Second))
	_, err = bufio.NewReader(conn).ReadByte()
	if took := time.Since(began); took > 20*time.Second || took < time.Second {
		t.Errorf("a header that does not end is waited for %s: %v", took, err)
	}
}

func TestS30HostileNamesAreOneLineAndNoMarkupAnywhere(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", withStatus(t))
	agent := "<script>alert(1)</script>"
	r.api().do(t, "POST", "/v2/"+upstreamName+"/acme/app/blobs/uploads/?digest="+digestOf([]byte("x")), []byte("x"), "User-Agent", agent)
	for _, path := range []string{"/", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", "/push/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/%0d%0aX: y"} {
		got := r.status().do(t, "GET", strings.ReplaceAll(path, " ", "%20"), nil)
		if strings.Contains(string(got.body), "<script>alert") || strings.Contains(string(got.body), "\x1b") || got.Header.Get("X") != "" {
			t.Errorf("GET %s: %v", path, got)
		}
	}
	if log := r.Output(); strings.Contains(log, "\x1b") {
		t.Errorf("the log has control characters:\n%s", log)
	}
	var shown struct{ Pushes []struct{ Agent string } }
	if err := json.Unmarshal(r.status().do(t, "GET", "/v1/status", nil).body, &shown); err != nil || len(shown.Pushes) != 1 || shown.Pushes[0].Agent != agent {
		t.Errorf("the JSON has the agent %+v, %v", shown, err)
	}
}

func TestAPortThatIsTakenCostsTheStatusPageOnlyWhereNobodyAskedForIt(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	r := prepare(t, "http://127.0.0.1:1", func(r *rig) { r.config.StatusListen = []string{address} })
	_, errs, err := r.run(t, "serve")
	if err == nil || !strings.Contains(errs, "status_listen") || !strings.Contains(errs, address) || !strings.Contains(errs, "in use") {
		t.Errorf("a port that is taken: %v, %s", err, errs)
	}
	r = prepare(t, "http://127.0.0.1:1", func(r *rig) { r.config.StatusListen = []string{"192.0.2.1:5003"} })
	_, errs, err = r.run(t, "serve")
	if err == nil || !strings.Contains(errs, "status_listen") || !strings.Contains(errs, "not a loopback address") {
		t.Errorf("an address beyond loopback: %v, %s", err, errs)
	}
}
