package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"

	"pushproxy/oci"
)

func TestOtherHostsArePassedThroughWhereAsked(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for c, err := echo.Accept(); err == nil; c, err = echo.Accept() {
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	var dialled []string
	r := startDoor(t, func(o *MitmOptions) {
		o.Dial = func(_ context.Context, authority string) (net.Conn, error) {
			dialled = append(dialled, authority)
			if authority != "other.test:443" {
				return nil, oci.ErrDenied.With("%s is at 127.0.0.1", authority)
			}
			return net.Dial("tcp", echo.Addr().String())
		}
	})
	c, answer := r.connect(t, "other.test:443")
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("got %s", answer.Status)
	}
	fmt.Fprint(c, "hello")
	_ = c.(*net.TCPConn).CloseWrite()
	if text, err := io.ReadAll(c); string(text) != "hello" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	if _, answer := r.connect(t, "private.test:443"); answer.StatusCode != http.StatusForbidden {
		t.Errorf("an address that may not be dialled: got %s", answer.Status)
	}
	for _, authority := range []string{"other.test:22", "other.test:80", "127.0.0.1:5001"} {
		if _, answer := r.connect(t, authority); answer.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %s", authority, answer.Status)
		}
	}
	if len(dialled) != 2 {
		t.Errorf("dialled %v", dialled)
	}
}

func TestAStopEndsTunnelsToOthers(t *testing.T) {
	t.Parallel()
	far, near := net.Pipe()
	defer far.Close()
	r := startDoor(t, func(o *MitmOptions) { o.Dial = func(context.Context, string) (net.Conn, error) { return near, nil } })
	c, _ := r.connect(t, "other.test:443")
	r.mitm.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the tunnel is still open: %v", err)
	}
}

func TestS33APanicInATunnelEndsThatRequestAlone(t *testing.T) {
	t.Parallel()
	r := startDoor(t, nil)
	// This door has no Target: every request for a repository panics.
	for range 2 {
		c := r.inside(t, "registry.test:443", "registry.test")
		if answer := ask(t, c, "GET /v2/a/tags/list HTTP/1.1\r\nHost: registry.test\r\n\r\n"); answer.StatusCode != http.StatusInternalServerError {
			t.Errorf("got %s", answer.Status)
		}
		if answer := ask(t, c, "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"); answer.StatusCode != http.StatusOK {
			t.Errorf("the next request in the tunnel is answered %s", answer.Status)
		}
	}
}
