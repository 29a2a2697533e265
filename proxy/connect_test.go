package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// open sends a CONNECT with headers and returns the answer.
func (r *doorRig) open(t *testing.T, authority string, headers ...string) (net.Conn, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", authority, authority, strings.Join(append(headers, "X: y"), "\r\n"))
	answer, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return c, answer
}

func TestS35ATunnelAsksForALogin(t *testing.T) {
	t.Parallel()
	store := tokensIn(t)
	_, secret, err := store.Create("one", Local, 0, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	uid := 1001
	r := startDoor(t, func(o *MitmOptions) {
		o.Principals = &Principals{Auth: AuthAuto, UID: 1000, Tokens: store, lookup: func(pair) (int, error) { return uid, nil }}
		o.Dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("dialled") }
	})
	login := "Proxy-" + basic("x", secret.Reveal())
	for _, authority := range []string{"registry.test:443", "elsewhere.test:443"} {
		for name, headers := range map[string][]string{"nothing": nil, "a wrong token": {"Proxy-" + basic("x", tokenPrefix+"no")}, "a login for the registry": {basic("x", secret.Reveal())}} {
			_, answer := r.open(t, authority, headers...)
			if answer.StatusCode != http.StatusProxyAuthRequired || answer.Header.Get("Proxy-Authenticate") == "" {
				t.Errorf("CONNECT %s with %s is answered %s %v", authority, name, answer.Status, answer.Header)
			}
		}
	}
	if n := r.asked.Load(); n > 0 {
		t.Errorf("it was looked up %d times for strangers whether a host is known", n)
	}
	c, answer := r.open(t, "registry.test:443", login)
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	inside := insideOf(t, r, c)
	// What is shown inside is for the registry, not for us.
	if got := inside(basic("anybody", "password")); got != http.StatusOK {
		t.Errorf("inside of the tunnel: %d", got)
	}
	if _, err := store.Revoke("one"); err != nil {
		t.Fatal(err)
	}
	if got := inside(basic("x", secret.Reveal())); got != http.StatusForbidden {
		t.Errorf("after the token was revoked: %d", got)
	}
	uid = 1000
	if _, answer := r.open(t, "registry.test:443"); answer.StatusCode != http.StatusOK {
		t.Errorf("our own process: %s", answer.Status)
	}
}

// insideOf returns what asks for the root of the API inside of a tunnel.
func insideOf(t *testing.T, r *doorRig, c net.Conn) func(headers ...string) int {
	t.Helper()
	conn := tls.Client(c, &tls.Config{ServerName: "registry.test", RootCAs: pool(t, r.ca)})
	reader := bufio.NewReader(conn)
	return func(headers ...string) int {
		t.Helper()
		fmt.Fprintf(conn, "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n%s\r\n\r\n", strings.Join(headers, "\r\n"))
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode
	}
}

func TestTunnelsWithPassthrough(t *testing.T) {
	t.Parallel()
	p := &Principals{Auth: AuthPassthrough, lookup: processOf(1001, nil), UID: 1000}
	if _, caller, err := p.entering(httptest.NewRequest("CONNECT", "/", nil), true); err != nil || caller.Principal != "" {
		t.Errorf("to a registry: %+v, %v", caller, err)
	}
	if _, _, err := p.entering(from(here), false); err == nil {
		t.Error("a stranger passes through to other hosts")
	}
}
