package tests

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// Every listener asks for a login where it has to, and refuses browsers and strangers.

// outside is an address of this machine that others could reach.
func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ip, ok := addr.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			return ip.IP.String()
		}
	}
	leftOut(t, "this machine has no address but loopback")
	return ""
}

func TestS18AListenerBeyondLoopbackHasTLSAndAsksForALogin(t *testing.T) {
	t.Parallel()
	ip, ca := outside(t), newAuthority(t)
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) {
		r.config.Listen = append(r.config.Listen, net.JoinHostPort(ip, fmt.Sprint(r.Port)))
		r.config.Hosts = []string{upstreamName}
		r.config.Certificate = &parts.Certificate{CertFile: ca.certFile, KeyFile: ca.keyFile}
	})
	token := r.newToken(t, "far")
	client := ca.client()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(ip, fmt.Sprint(r.Port)))
	}
	client.Transport.(*http.Transport).DialContext = dial
	far := api{url: fmt.Sprintf("https://%s:%d", upstreamName, r.Port), client: client}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"/v2/", "/v2/" + killRepo + "/tags/list", "/v2/" + killRepo + "/blobs/uploads/", "/v2/" + killRepo + "/manifests/1", "/metrics", "/"} {
			if got := far.do(t, method, path, nil); got.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s from outside is answered %v", method, path, got)
			}
		}
	}
	far.user = parts.User{Name: "x", Password: token}
	far.want(t, http.StatusOK, "GET", "/v2/", nil)
	far.want(t, http.StatusMisdirectedRequest, "GET", "/v2/", nil, "Host", "evil.test")
	far.want(t, http.StatusForbidden, "GET", "/v2/", nil, "Origin", "https://evil.test")
	plain := api{url: far.url, user: far.user, client: &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: patience}}
	if got, err := plain.send("GET", strings.Replace(far.url, "https", "http", 1)+"/v2/", nil); err == nil && got.StatusCode/100 == 2 {
		t.Errorf("a request in the clear is answered %s", got.Status)
	}
	old := client.Transport.(*http.Transport).Clone()
	old.TLSClientConfig.MaxVersion = tls.VersionTLS11
	old.TLSClientConfig.MinVersion = tls.VersionTLS10
	if got, err := (api{client: &http.Client{Transport: old, Timeout: patience}}).send("GET", far.url+"/v2/", nil); err == nil {
		t.Errorf("TLS 1.1 is answered %s", got.Status)
	}
	r.api().want(t, http.StatusOK, "GET", "/v2/", nil)
}

func TestAUnixSocketIsForItsOwnUser(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(shortDir(t), "pp.sock")
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) { r.config.Listen = append(r.config.Listen, "unix:"+socket) })
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}, Timeout: patience}
	a := api{url: "http://localhost", client: client}
	a.want(t, http.StatusOK, "GET", "/v2/", nil)
	a.want(t, http.StatusMisdirectedRequest, "GET", "/v2/", nil, "Host", "evil.test")
	a.want(t, http.StatusForbidden, "GET", "/v2/", nil, "Origin", "null")
	// That name is for the socket alone.
	r.api().want(t, http.StatusMisdirectedRequest, "GET", "/v2/", nil, "Host", "localhost")
	r.Kill()
	// What a killed program left behind is no obstacle.
	r.start(t)
	a.want(t, http.StatusOK, "GET", "/v2/", nil)
}

func TestS17S4AStartThatWouldTrustOthersIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, r *rig) (words []string)
	}{
		{"a data directory that others can enter", func(t *testing.T, r *rig) []string {
			mkdir(t, r.config.DataDir)
			return chmod(t, r.config.DataDir, 0o755)
		}},
		{"a data directory that is a link", func(t *testing.T, r *rig) []string {
			if err := os.Symlink(mkdir(t, filepath.Join(r.home, "elsewhere")), r.config.DataDir); err != nil {
				t.Fatal(err)
			}
			return []string{r.config.DataDir, "symbolic link"}
		}},
		{"a data directory of another user", func(t *testing.T, r *rig) []string { return chown(t, mkdir(t, r.config.DataDir)) }},
		{"a docker config of another user", func(t *testing.T, r *rig) []string {
			return append(chown(t, r.config.Credentials.DockerConfig), "system service", "let each person run their own")
		}},
		{"a configuration of another user", func(t *testing.T, r *rig) []string { return chown(t, r.file) }},
		{"a configuration that others can write", func(t *testing.T, r *rig) []string { return chmod(t, r.file, 0o666) }},
		{"tokens that others can read", func(t *testing.T, r *rig) []string {
			r.newToken(t, "one")
			return chmod(t, filepath.Join(r.config.DataDir, "tokens.json"), 0o644)
		}},
		{"a secret that others can read", func(t *testing.T, r *rig) []string {
			mkdir(t, r.config.DataDir)
			return chmod(t, writeFile(t, filepath.Join(r.config.DataDir, "secret"), strings.Repeat("0", 64), 0o600), 0o644)
		}},
		{"an address beyond loopback without TLS", func(t *testing.T, r *rig) []string {
			r.config.Listen = []string{"0.0.0.0:" + fmt.Sprint(r.Port)}
			if err := r.config.Write(r.file); err != nil {
				t.Fatal(err)
			}
			return []string{"0.0.0.0", "certificate"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if os.Geteuid() != 0 {
				leftOut(t, "only root can give files away")
			}
			r := prepare(t, "http://127.0.0.1:1", nil)
			words := c.change(t, r)
			_, stderr, err := r.run(t, "serve")
			if err == nil {
				t.Fatal("serve began")
			}
			for _, word := range words {
				if !strings.Contains(stderr, word) {
					t.Errorf("the message does not say %q:\n%s", word, lastLines(stderr, 5))
				}
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) (words []string) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return []string{path, "chmod"}
}

func chown(t *testing.T, path string) (words []string) {
	t.Helper()
	if err := os.Chown(path, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	return []string{path, "1234"}
}
