package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFreshConnectionCostsARoundTripMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newRig(t, Profile{RTT: rtt, Rate: rate}, echo).connect(t)
		within(t, "the first exchange", exchange(t, c), 2*rtt)
		within(t, "the second exchange", exchange(t, c), rtt)
	})
}

func TestASlowStartDoublesEveryRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		bytes  int
		rounds time.Duration // before the last byte is sent
	}{
		{"ten segments go at once", 10 * segment, 0},
		{"one more needs a round trip between", 11 * segment, 1},
		{"thirty need one round trip between", 30 * segment, 1},
		{"seventy need two", 70 * segment, 2},
		{"a hundred and fifty need three", 150 * segment, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				arrived := make(chan time.Time, 1)
				r := newRig(t, Profile{RTT: rtt}, func(far net.Conn) {
					if _, err := io.ReadFull(far, make([]byte, c.bytes)); err == nil {
						arrived <- time.Now()
					}
				})
				conn, start := r.connect(t), time.Now()
				if _, err := conn.Write(make([]byte, c.bytes)); err != nil {
					t.Fatal(err)
				}
				within(t, "sending", (<-arrived).Sub(start), rtt+rtt/2+c.rounds*rtt)
			})
		})
	}
}

func TestConnectionsShareTheRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		clients int
	}{{"one connection fills the line", 1}, {"three fill it together", 3}, {"eight do not exceed it", 8}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Profile{RTT: rtt, Rate: rate}, func(far net.Conn) { _, _ = io.Copy(io.Discard, far) })
				for range c.clients {
					conn := r.connect(t)
					go func() { _, _ = io.Copy(conn, zeros{}) }()
				}
				time.Sleep(2 * time.Second) // the bubble's: beyond the slow start
				before, _ := r.Carried()
				time.Sleep(4 * time.Second)
				after, _ := r.Carried()
				if got := (after - before) / 4; got < rate*9/10 || got > rate*11/10 {
					t.Errorf("%d connections sent %d bytes a second, the line has %d", c.clients, got, rate)
				}
			})
		})
	}
}

func TestOneConnectionDoesNotStarveAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []int
		r := newRig(t, Profile{RTT: rtt, Rate: rate}, func(far net.Conn) {
			mu.Lock()
			i := len(got)
			got = append(got, 0)
			mu.Unlock()
			for b := make([]byte, 64<<10); ; {
				n, err := far.Read(b)
				mu.Lock()
				got[i] += n
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
		for range 2 {
			conn := r.connect(t)
			go func() { _, _ = io.Copy(conn, zeros{}) }()
		}
		time.Sleep(6 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if got[0] < got[1]/2 || got[1] < got[0]/2 {
			t.Errorf("two connections got %d and %d bytes", got[0], got[1])
		}
	})
}

func TestAStallHoldsBothDirections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Profile{RTT: rtt, Rate: rate}, echo)
		c := r.connect(t)
		exchange(t, c)
		r.Stall(30 * time.Second)
		within(t, "an exchange during a stall", exchange(t, c), 30*time.Second)
		within(t, "an exchange after it", exchange(t, c), rtt)
	})
}

func TestALineCanBeOpened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Profile{}, echo)
		c := r.connect(t)
		if took := exchange(t, c); took != 0 {
			t.Errorf("an exchange over an open line took %v", took)
		}
		r.Set(Profile{RTT: rtt, Rate: rate})
		within(t, "an exchange after the line was made long", exchange(t, c), rtt)
	})
}

func TestClosingALinkEndsItsConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Profile{RTT: rtt, Rate: rate}, echo)
		c := r.connect(t)
		exchange(t, c)
		r.Close()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlived its link")
		}
	})
}

func TestAHalfClosedConnectionStillAnswers(t *testing.T) {
	t.Parallel()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		c, err := target.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		got, _ := io.ReadAll(c)
		_, _ = c.Write(append([]byte("got "), got...))
	}()
	var d net.Dialer
	l := New(Profile{RTT: 2 * time.Millisecond}, func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", target.Addr().String())
	})
	defer l.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.Serve(ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("all")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "got all" {
		t.Errorf("the answer is %q, %v", got, err)
	}
	if up, down := l.Carried(); up != 3 || down != 7 {
		t.Errorf("the line says it carried %d and %d bytes, want 3 and 7", up, down)
	}
}

func TestATargetThatCannotBeReachedEndsTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(Profile{}, func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") })
		ln := listener{make(chan net.Conn), make(chan struct{}), new(sync.Once)}
		go func() { _ = l.Serve(ln) }()
		near, far := net.Pipe()
		ln.conns <- far
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client reads %v", err)
		}
		l.Close()
	})
}
