package upstream

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"pushproxy/oci"
)

const (
	// answerIn is how long an answer may take before it is checked whether the
	// upstream can be reached at all, and checkFor how long that may take: with
	// them, who asks over a connection that leads nowhere is told within two
	// seconds. bodyIn takes the place of answerIn while a body is sent and after
	// the first check: an upload outlives a moment without a network.
	answerIn = 300 * time.Millisecond
	checkFor = 1200 * time.Millisecond
	bodyIn   = 10 * time.Second
	// checkedFor is how long a check holds, and justHeard how long it counts
	// against one that something came from there.
	checkedFor = 2 * time.Second
	justHeard  = 1500 * time.Millisecond
	// smallBody, in bytes, is the largest body that is as good as none.
	smallBody = 64 << 10
)

// quiet watches one request for silence: where nothing moves, it is checked
// whether anything can.
type quiet struct {
	p      *path
	cancel context.CancelCauseFunc
	limit  time.Duration

	mu      sync.Mutex
	address string // of the other end
	timer   *time.Timer
	moved   int
	over    bool
}

// begin is told of the connection that the request goes on.
func (q *quiet) begin(c httptrace.GotConnInfo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over || c.Conn.RemoteAddr() == nil {
		return
	}
	q.address = c.Conn.RemoteAddr().String()
	if q.timer == nil {
		q.timer = time.AfterFunc(q.limit, q.look)
		return
	}
	q.timer.Reset(q.limit)
}

// move is told that something of the request was sent.
func (q *quiet) move() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moved++
	if q.timer != nil && !q.over {
		q.timer.Reset(q.limit)
	}
}

func (q *quiet) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	if q.timer != nil {
		q.timer.Stop()
	}
}

// look checks whether the other end can be reached, and ends the request if not.
func (q *quiet) look() {
	q.mu.Lock()
	moved, address := q.moved, q.address
	q.mu.Unlock()
	err := q.p.check(address)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.over:
	case err == nil || moved != q.moved:
		q.limit = bodyIn
		q.timer.Reset(q.limit)
	case q.p.silent() < justHeard:
		q.timer.Reset(dialEvery)
	default:
		q.over = true
		q.cancel(q.p.lose(err))
	}
}

// hearBody has the request's body tell when it is read.
func (q *quiet) hearBody(r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return
	}
	r.Body = &movingBody{r.Body, q}
	if open := r.GetBody; open != nil {
		r.GetBody = func() (io.ReadCloser, error) {
			b, err := open()
			if err != nil {
				return nil, err
			}
			return &movingBody{b, q}, nil
		}
	}
}

type movingBody struct {
	io.ReadCloser
	q *quiet
}

func (b *movingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.q.move()
	return n, err
}

// check finds out whether the address, which was connected to before, can be
// reached. Who checks at the same time shares the answer.
func (p *path) check(address string) error {
	p.mu.Lock()
	c := p.checks[address]
	if c == nil || c.old() {
		if p.checks == nil {
			p.checks = map[string]*check{}
		}
		maps.DeleteFunc(p.checks, func(_ string, c *check) bool { return c.old() })
		c = &check{done: make(chan struct{})}
		p.checks[address] = c
		go c.guarded(p.again, address, max(checkFor, min(patienceTimes*p.took, dialFor)))
	}
	p.mu.Unlock()
	<-c.done
	return c.err
}

// check is one look at an address.
type check struct {
	done chan struct{}
	when time.Time // valid, as is err, when done is closed
	err  error
}

// old reports whether the check is over and holds no longer.
func (c *check) old() bool {
	select {
	case <-c.done:
		return c.err != nil || time.Since(c.when) > checkedFor
	default:
		return false
	}
}

// guarded is run; whoever waits for a check waits for its end alone.
func (c *check) guarded(connect connectFunc, address string, patience time.Duration) {
	defer close(c.done)
	c.err = oci.Guarded(func() error { return c.run(connect, address, patience) })
	c.when = time.Now()
}

// run returns why nobody can be at the address.
func (c *check) run(connect connectFunc, address string, patience time.Duration) error {
	r := connect.race(context.Background(), "tcp", address, race{patience: patience, every: dialEvery, most: dialsAtOnce})
	if r.err == nil {
		_ = r.conn.Close()
	} else if noNetwork(r.err) {
		// Any other error is somebody who is there to cause it.
		return r.err
	}
	return nil
}
