package upstream

import (
	"context"
	"net"
	"net/http/httptrace"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

func TestARequestThatIsNotAnsweredIsCheckedOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		far    *far
		large  bool          // it has a body that takes a while
		moving time.Duration // how long something of it is sent
		heard  time.Duration // when something else came from there last; 0: never
		wait   time.Duration
		ends   bool
		within time.Duration
	}{
		"nothing can be reached":                           {far: &far{silent: true}, wait: time.Minute, ends: true, within: 1800 * time.Millisecond},
		"nothing can be reached, after an answer":          {far: &far{silent: true}, heard: time.Millisecond, wait: time.Minute, ends: true, within: 2 * time.Second},
		"it takes its time, and can be reached":            {far: &far{takes: 600 * time.Millisecond}, wait: 10 * time.Minute},
		"it takes its time, and packets are lost":          {far: &far{takes: 100 * time.Millisecond, lose: 2}, wait: 10 * time.Minute},
		"somebody refuses further connections":             {far: &far{err: syscall.ECONNREFUSED}, wait: time.Minute},
		"a body that is sent":                              {far: &far{silent: true}, large: true, moving: time.Minute, wait: 5 * time.Second},
		"a body that is held up for a moment":              {far: &far{silent: true}, large: true, wait: 9 * time.Second},
		"a body that is held up, and nothing can reach it": {far: &far{silent: true}, large: true, moving: time.Minute, wait: 5 * time.Minute, ends: true, within: time.Minute + 12*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pathTest(t, c.far, func(p *path) {
				ctx, cancel := context.WithCancelCause(context.Background())
				q := &quiet{p: p, cancel: cancel, limit: answerIn}
				if c.large {
					q.limit = bodyIn
				}
				if c.heard > 0 {
					p.hear()
					time.Sleep(c.heard)
				}
				began := time.Now()
				q.begin(httptrace.GotConnInfo{Conn: elsewhere{}})
				for time.Since(began) < c.moving {
					time.Sleep(5 * time.Second)
					q.move()
				}
				select {
				case <-ctx.Done():
				case <-time.After(c.wait):
				}
				took := time.Since(began)
				if ended := isCutOff(context.Cause(ctx)); ended != c.ends || ended && took > c.within {
					t.Errorf("ended: %t, after %s", ended, took)
				}
				q.end()
				cancel(nil)
				c.far.set(func(f *far) { f.silent, f.err = false, nil })
			})
		})
	}
}

func TestAWaitThatIsOverIsNotCheckedOn(t *testing.T) {
	t.Parallel()
	f := &far{silent: true}
	pathTest(t, f, func(p *path) {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		q := &quiet{p: p, cancel: cancel, limit: answerIn}
		q.begin(httptrace.GotConnInfo{Conn: elsewhere{}})
		time.Sleep(answerIn + 100*time.Millisecond)
		q.end()
		q.begin(httptrace.GotConnInfo{Conn: elsewhere{}})
		time.Sleep(time.Minute)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Errorf("it was ended: %v", context.Cause(ctx))
		}
	})
}

func TestManyWhoWaitCheckOnce(t *testing.T) {
	t.Parallel()
	f := &far{takes: 100 * time.Millisecond}
	pathTest(t, f, func(p *path) {
		for range 20 {
			ctx, cancel := context.WithCancelCause(context.Background())
			q := &quiet{p: p, cancel: cancel, limit: answerIn}
			q.begin(httptrace.GotConnInfo{Conn: elsewhere{}})
			defer q.end()
			defer cancel(nil)
			defer func() {
				if ctx.Err() != nil {
					t.Errorf("a request was ended: %v", context.Cause(ctx))
				}
			}()
		}
		time.Sleep(5 * time.Second)
		f.set(func(f *far) {
			if f.tried != 1 {
				t.Errorf("%d connections were made", f.tried)
			}
		})
	})
}
