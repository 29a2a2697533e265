package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"pushproxy/oci"
)

// hole is a registry on a real socket that can stop to answer, as a network that
// drops everything looks: connections that are there are silent, new ones are
// not made.
type hole struct {
	t        *testing.T
	listener net.Listener
	filler   []net.Conn
}

func newHole(t *testing.T) *hole {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	noError(t, err)
	noError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	// Room for one connection that nobody has accepted.
	noError(t, syscall.Listen(fd, 0))
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	noError(t, err)
	h := &hole{t: t, listener: l}
	t.Cleanup(func() {
		_ = l.Close()
		for _, c := range h.filler {
			_ = c.Close()
		}
	})
	return h
}

// answer accepts one connection and answers so many requests on it.
func (h *hole) answer(n int) {
	h.t.Helper()
	conn, err := h.listener.Accept()
	if err != nil {
		h.t.Error(err)
		return
	}
	r := bufio.NewReader(conn)
	for range n {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, request.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	}
}

// close lets nobody in any more.
func (h *hole) close() {
	h.t.Helper()
	for {
		c, err := net.DialTimeout("tcp", h.listener.Addr().String(), 200*time.Millisecond)
		if err != nil {
			return
		}
		h.filler = append(h.filler, c)
	}
}

func (h *hole) client() *Client {
	transport := NewTransport(TransportOptions{Trust: func(string) Trust { return TrustNamed }})
	h.t.Cleanup(transport.CloseIdleConnections)
	return &Client{Host: "hole.test", URLs: []*url.URL{{Scheme: "http", Host: h.listener.Addr().String()}}, HTTP: &http.Client{Transport: transport}}
}

// ask tells how long the answer took, less what a busy machine kept for others: a
// clock that runs beside the question is late by as much as the question is.
func (h *hole) ask(c *Client) (time.Duration, error) {
	const tick = 10 * time.Millisecond
	late, stop := make(chan time.Duration), make(chan struct{})
	go func() {
		var sum time.Duration
		for began := time.Now(); ; began = time.Now() {
			select {
			case <-stop:
				late <- sum
				return
			case <-time.After(tick):
				if over := time.Since(began) - tick; over > tick/2 {
					sum += over
				}
			}
		}
	}()
	began := time.Now()
	_, _, err := c.HeadManifest(context.Background(), oci.Repo{Host: "hole.test", Name: "app"}, "v1", nil)
	took := time.Since(began)
	close(stop)
	return took - <-late, err
}

func TestABlackHoleIsSaidWithinTwoSecondsAndLeftAtOnce(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"from the beginning": false, "over a connection that was used just now": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHole(t)
			c := h.client()
			if known {
				go h.answer(1)
				if _, err := h.ask(c); err != nil {
					t.Fatal(err)
				}
			}
			h.close()
			took, err := h.ask(c)
			if !Unreachable(err) || took > 2*time.Second || !strings.Contains(oci.AsError(err).Message, "there is no connection to "+h.listener.Addr().String()) {
				t.Errorf("%v after %s", err, took)
			}
			if took, err := h.ask(c); !Unreachable(err) || took > time.Second {
				t.Errorf("the next one: %v after %s", err, took)
			}
			for range h.filler {
				conn, err := h.listener.Accept()
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.Close()
			}
			// The search's own connections end when it has found the way.
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			go func() {
				for ctx.Err() == nil {
					h.answer(10)
				}
			}()
			began := time.Now()
			for {
				if _, err = h.ask(c); err == nil {
					break
				}
				if time.Since(began) > 5*time.Second {
					t.Fatalf("five seconds after it is back: %v", err)
				}
			}
			stop()
		})
	}
}
