package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pushproxy/oci"
)

// doorRig is a forward-proxy door on a listener of its own, before a registry
// door that can ping and route but has no upstream.
type doorRig struct {
	address string
	ca      *CA
	mitm    *Mitm
	asked   atomic.Int64 // how often it was looked up whether a host is known
}

func startDoor(t *testing.T, change func(*MitmOptions)) *doorRig {
	t.Helper()
	rig := &doorRig{ca: newCA(t, "localhost", "registry.test", "10.9.8.7")}
	routes := &Routes{
		Upstreams: []Upstream{{Host: "registry.test"}, {Host: "docker.io"}, {Host: "ports.test:5000", Aliases: []string{"ports"}}, {Host: "10.9.8.7"}},
		Known: func(_ context.Context, host string) (bool, error) {
			rig.asked.Add(1)
			return host == "login.test", nil
		},
	}
	guard, err := NewGuard([]string{"127.0.0.1:5001"})
	if err != nil {
		t.Fatal(err)
	}
	o := MitmOptions{Routes: routes, CA: rig.ca, Log: slog.New(slog.DiscardHandler), Principals: &Principals{Auth: AuthNone}}
	if change != nil {
		change(&o)
	}
	rig.mitm = NewMitm(o)
	api := &http.Server{Handler: &Registry{Routes: routes, Guard: guard, Principals: o.Principals, Log: o.Log}, ConnContext: ConnContext, ReadHeaderTimeout: 5 * time.Second}
	outer := &http.Server{Handler: rig.mitm, ReadHeaderTimeout: 5 * time.Second}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rig.address = l.Addr().String()
	go func() { _ = api.Serve(rig.mitm.Tunnels()) }()
	go func() { _ = outer.Serve(l) }()
	t.Cleanup(func() { rig.mitm.Close(); _ = outer.Close(); _ = api.Close() })
	return rig
}

// connect opens a tunnel and returns it with the status of the answer.
func (r *doorRig) connect(t *testing.T, authority string) (net.Conn, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	answer, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", authority, err)
	}
	return c, answer
}

// inside opens a tunnel and does the handshake in it.
func (r *doorRig) inside(t *testing.T, authority, name string) *tls.Conn {
	t.Helper()
	c, answer := r.connect(t, authority)
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT %s is answered %s", authority, answer.Status)
	}
	inner := tls.Client(c, &tls.Config{RootCAs: pool(t, r.ca), ServerName: name, InsecureSkipVerify: true}) // compared below
	if err := inner.Handshake(); err != nil {
		t.Fatal(err)
	}
	return inner
}

func ask(t *testing.T, c net.Conn, request string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestATunnelToARegistryEndsInTheRegistryDoor(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	for authority, host := range map[string]string{
		"registry.test:443": "registry.test", "REGISTRY.test:443": "registry.test", "ports.test:5000": "ports.test:5000",
		"10.9.8.7:443": "10.9.8.7", "login.test:443": "login.test:443", "registry-1.docker.io:443": "registry-1.docker.io",
	} {
		name, _, _ := net.SplitHostPort(host)
		if name == "" {
			name = host
		}
		c := r.inside(t, authority, name)
		if err := c.ConnectionState().PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Error(err)
		}
		answer := ask(t, c, "GET /v2/ HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		if answer.StatusCode != http.StatusOK || answer.Header.Get("Server") != ServerName {
			t.Errorf("%s: got %s", authority, answer.Status)
		}
	}
}

func TestTheCertificateInATunnelVerifies(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	for _, name := range []string{"registry.test", "login.test"} {
		c, _ := r.connect(t, name+":443")
		if err := tls.Client(c, &tls.Config{RootCAs: pool(t, r.ca), ServerName: name}).Handshake(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHTTP2IsSpokenInATunnel(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool(t, r.ca)},
		Proxy: http.ProxyURL(mustURL(t, "http://"+r.address))}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("https://registry.test/v2/")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.ProtoMajor != 2 || answer.StatusCode != http.StatusOK {
		t.Errorf("got %s %s", answer.Proto, answer.Status)
	}
	request, _ := http.NewRequest("GET", "https://registry.test/v2/", nil)
	request.Host = "other.test"
	if answer, err = client.Do(request); err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another :authority is answered %s", answer.Status)
	}
}

func TestRequestsInATunnelForAnotherHostAreRefused(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	for says, c := range map[string]struct{ name, request string }{
		"another host":               {"registry.test", "GET /v2/ HTTP/1.1\r\nHost: login.test\r\n\r\n"},
		"another port":               {"registry.test", "GET /v2/ HTTP/1.1\r\nHost: registry.test:444\r\n\r\n"},
		"the door's own name":        {"registry.test", "GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1:5001\r\n\r\n"},
		"an absolute URI":            {"registry.test", "GET https://login.test/v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"},
		"an absolute URI to itself":  {"registry.test", "GET http://registry.test/v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"},
		"a name below it":            {"registry.test", "GET /v2/ HTTP/1.1\r\nHost: x.registry.test\r\n\r\n"},
		"a trailing dot":             {"registry.test", "GET /v2/ HTTP/1.1\r\nHost: registry.test.\r\n\r\n"},
		"a user":                     {"registry.test", "GET /v2/ HTTP/1.1\r\nHost: u@registry.test\r\n\r\n"},
		"another name in handshakes": {"login.test", "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"},
		"no name in the handshake":   {"", "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"},
	} {
		answer := ask(t, r.inside(t, "registry.test:443", c.name), c.request)
		if answer.StatusCode != http.StatusMisdirectedRequest && answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got %s", says, answer.Status)
		}
	}
}

func TestOtherConnectsAreRefusedAndSayWhy(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	for authority, want := range map[string]int{
		"google.com:443": 404, "registry.test:80": 404, "registry.test:5000": 404, "ports.test:443": 404, "127.0.0.1:5001": 404, "localhost:443": 404,
		"169.254.169.254:80": 404, "x.registry.test:443": 404, "[::1]:443": 404,
		"registry.test": 400, "registry.test:": 400, "registry.test:0443": 400, "registry.test:https": 400, "registry.test:99999": 400,
		"-a.test:443": 400, "a..b:443": 400, "u@registry.test:443": 400, "regi%73try.test:443": 400, "régistry.test:443": 400,
	} {
		c, answer := r.connect(t, authority)
		if answer.StatusCode != want || !strings.Contains(answer.Status, ":") && want == 404 {
			t.Errorf("CONNECT %s: got %q, want %d", authority, answer.Status, want)
		}
		_ = c.Close()
	}
	_, answer := r.connect(t, "google.com:443")
	body, _ := io.ReadAll(answer.Body)
	for _, text := range []string{answer.Status, string(body)} {
		if !strings.Contains(text, "docker login google.com") {
			t.Errorf("the remedy is missing: %s", text)
		}
	}
	if n := r.ca.leaves.order.Len(); n != 0 {
		t.Errorf("%d leaves were minted", n)
	}
}

func TestNothingButConnectIsTaken(t *testing.T) {
	t.Parallel()
	reached := make(chan string, 10)
	victim := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.URL.Path }))
	defer victim.Close()
	host := victim.Listener.Addr().String()
	r := startDoor(t, func(o *MitmOptions) {
		o.Dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("dialled") }
	})
	for _, request := range []string{
		"GET http://" + host + "/absolute HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		"POST http://" + host + "/absolute HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 1\r\n\r\nx",
		"GET https://registry.test/v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n",
		"GET /v2/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: " + host + "\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		answer := ask(t, c, request)
		// The server answers OPTIONS * by itself, with nothing in it.
		if answer.StatusCode != http.StatusForbidden && !strings.HasPrefix(request, "OPTIONS *") {
			t.Errorf("%.40q is answered %s", request, answer.Status)
		}
		_ = c.Close()
	}
	select {
	case path := <-reached:
		t.Errorf("%s was forwarded", path)
	default:
	}
}

func TestPlainTextInATunnelGoesNowhere(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	c, _ := r.connect(t, "registry.test:443")
	if answer := ask(t, c, "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("got %s", answer.Status)
	}
}

func FuzzSplitAuthority(f *testing.F) {
	for _, seed := range []string{"ghcr.io:443", "[::1]:443", "a:1", "A.b.:65535", "user@a:1", "a:0", ":443", "[a]:1", "a%2e:1", "1.2.3.4:443"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		host, port, err := splitAuthority(authority)
		if err != nil {
			if !errors.Is(err, oci.ErrNameInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, samePort, err := splitAuthority(net.JoinHostPort(host, port))
		if err != nil || again != host || samePort != port || strings.ContainsAny(host, "/@%\r\n ") || strings.HasSuffix(host, ".") {
			t.Fatalf("%q is %q %q, read again %q %q (%v)", authority, host, port, again, samePort, err)
		}
	})
}
