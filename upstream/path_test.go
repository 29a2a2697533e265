package upstream

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// far is a place that is connected to in fake time.
type far struct {
	mu      sync.Mutex
	takes   time.Duration // a connection
	lose    int           // so many of the next attempts
	silent  bool          // nothing arrives
	err     error         // what attempts end with at once
	tried   int
	dropped int // idle connections
}

func (f *far) set(change func(*far)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *far) connect(ctx context.Context, _, _ string) (net.Conn, error) {
	f.mu.Lock()
	f.tried++
	takes, silent, err, lost := f.takes, f.silent, f.err, f.lose > 0
	if lost {
		f.lose--
	}
	f.mu.Unlock()
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	for began := time.Now(); silent && !lost && time.Since(began) < dialFor; {
		// The kernel repeats what was lost until somebody answers.
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
		f.mu.Lock()
		silent = f.silent
		f.mu.Unlock()
	}
	if lost {
		takes = dialFor
	}
	if err := sleep(ctx, takes); err != nil || lost || silent {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}
	}
	here, there := net.Pipe()
	_ = there.Close()
	return here, nil
}

// pathTest runs a test of a way in fake time. Nothing may be left running.
func pathTest(t *testing.T, f *far, test func(*path)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &path{authority: "a.test:443", connect: f.connect, again: f.connect, kick: make(chan struct{}, 1)}
		p.lost = func() { f.set(func(f *far) { f.dropped++ }) }
		test(p)
		// Whoever still searches finds or gives up.
		time.Sleep(time.Hour)
		synctest.Wait()
	})
}

// ask is what a request does: it is admitted and then needs a connection.
func ask(p *path) (took time.Duration, err error) {
	began := time.Now()
	if err = p.admit(context.Background()); err == nil {
		var conn net.Conn
		if conn, err = p.dial(context.Background(), "tcp"); err == nil {
			_ = conn.Close()
		}
	}
	return time.Since(began), err
}

func TestWhatGetsNoAnswerIsSaidWithinTwoSecondsAndThenAtOnce(t *testing.T) {
	t.Parallel()
	f := &far{silent: true, takes: 50 * time.Millisecond}
	pathTest(t, f, func(p *path) {
		took, err := ask(p)
		if !isCutOff(err) || took > 1800*time.Millisecond || !strings.Contains(err.Error(), "a.test:443") {
			t.Errorf("%v after %s", err, took)
		}
		for range 5 {
			if took, err := ask(p); !isCutOff(err) || took > admitFor {
				t.Errorf("the next one: %v after %s", err, took)
			}
		}
		f.set(func(f *far) {
			if f.dropped != 1 {
				t.Errorf("idle connections were given up %d times", f.dropped)
			}
		})
		time.Sleep(20 * time.Second)
		f.set(func(f *far) { f.silent = false })
		if took, err := ask(p); err != nil || took > admitFor {
			t.Errorf("once the network is back: %v after %s", err, took)
		}
	})
}

func TestANetworkThatReturnsIsFoundWithoutAnybodyAsking(t *testing.T) {
	t.Parallel()
	f := &far{silent: true, takes: 400 * time.Millisecond}
	pathTest(t, f, func(p *path) {
		_, _ = ask(p)
		time.Sleep(5 * time.Second)
		f.set(func(f *far) { f.silent = false })
		time.Sleep(searchEvery + 400*time.Millisecond)
		synctest.Wait()
		p.mu.Lock()
		cut := p.cut
		p.mu.Unlock()
		if cut != nil {
			t.Errorf("it is still said: %v", cut)
		}
	})
}

func TestASlowLinkIsNotTakenForNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		takes time.Duration
		lost  int
		first bool // the first request gets through
	}{
		"a satellite, with a name to look up": {1200 * time.Millisecond, 0, true},
		"a satellite that loses packets":      {600 * time.Millisecond, 2, true},
		"a link that loses most packets":      {50 * time.Millisecond, 5, true},
		"three seconds":                       {3 * time.Second, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &far{takes: c.takes, lose: c.lost}
			pathTest(t, f, func(p *path) {
				took, err := ask(p)
				if (err == nil) != c.first || took > 2*time.Second {
					t.Errorf("the first: %v after %s", err, took)
				}
				time.Sleep(2*c.takes + searchEvery)
				// From now on it is known how slow it is.
				for range 3 {
					if took, err := ask(p); err != nil || took > c.takes+dialEvery {
						t.Errorf("a later one: %v after %s", err, took)
					}
				}
			})
		})
	}
}

func TestAnOutageDoesNotMakeALinkSlow(t *testing.T) {
	t.Parallel()
	f := &far{silent: true, takes: 20 * time.Millisecond}
	pathTest(t, f, func(p *path) {
		_, _ = ask(p)
		time.Sleep(5 * time.Second)
		f.set(func(f *far) { f.silent = false })
		// What began in the outage connects now, long after its beginning.
		time.Sleep(time.Second)
		f.set(func(f *far) { f.silent = true })
		if took, err := ask(p); !isCutOff(err) || took > 2*time.Second {
			t.Errorf("the next outage: %v after %s", err, took)
		}
	})
}

func TestNobodySearchesForWhatNobodyWants(t *testing.T) {
	t.Parallel()
	f := &far{silent: true}
	pathTest(t, f, func(p *path) {
		_, _ = ask(p)
		time.Sleep(wantedFor + searchFor + time.Second)
		f.set(func(f *far) { f.tried = 0 })
		time.Sleep(time.Hour)
		f.set(func(f *far) {
			if f.tried > 0 {
				t.Errorf("%d attempts though nobody asks", f.tried)
			}
		})
		// And then the verdict is a new one.
		if took, err := ask(p); !isCutOff(err) || took < time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}

func TestWithoutANetworkOnlyTheFirstRequestWaits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err error
		cut bool
	}{
		"no network":               {syscall.ENETUNREACH, true},
		"no such name":             {&net.DNSError{Err: "no such host", IsNotFound: true}, true},
		"nobody listens":           {syscall.ECONNREFUSED, true},
		"no more files to open":    {syscall.EMFILE, false},
		"an address that is wrong": {syscall.EINVAL, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &far{err: c.err}
			pathTest(t, f, func(p *path) {
				for began := time.Now(); time.Since(began) < 1500*time.Millisecond; time.Sleep(500 * time.Millisecond) {
					if took, err := ask(p); err == nil || took > admitFor {
						t.Errorf("an attempt: %v after %s", err, took)
					}
				}
				if _, err := ask(p); isCutOff(err) != c.cut || !errors.Is(err, c.err) {
					t.Errorf("after a second and a half: %v", err)
				}
			})
		})
	}
}

func TestARegistryThatRestartsIsNotGone(t *testing.T) {
	t.Parallel()
	f := &far{}
	pathTest(t, f, func(p *path) {
		_, err := ask(p)
		noError(t, err)
		f.set(func(f *far) { f.err = syscall.ECONNREFUSED })
		for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(500 * time.Millisecond) {
			if _, err := ask(p); isCutOff(err) {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
		}
	})
}

func TestFallbacksShareTheTimeForAVerdict(t *testing.T) {
	t.Parallel()
	pathTest(t, &far{silent: true}, func(p *path) {
		began := time.Now()
		_, err := p.dial(withWays(context.Background(), 2), "tcp")
		if took := time.Since(began); !isCutOff(err) || took > 800*time.Millisecond {
			t.Errorf("one of two: %v after %s", err, took)
		}
	})
}
