package torture

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestWithoutANetworkEverybodyIsAnsweredWithinTwoSeconds has the way to the
// upstream swallow what is sent: nothing is refused, nothing comes back.
func TestWithoutANetworkEverybodyIsAnsweredWithinTwoSeconds(t *testing.T) {
	for name, before := range map[string]bool{"from its start on": false, "after pushes that worked": true} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			r := newRigOn(t, "", 1, 200<<10, l.Listen(t))
			c := r.clients[0]
			slowest := &timing{RoundTripper: c.HTTP.Transport}
			c.HTTP.Transport = slowest
			// As far away as by a satellite.
			l.delay.Store(int64(300 * time.Millisecond))
			if !before {
				l.down.Store(true)
			}
			r.start()
			if before {
				if _, err := c.Push(false); err != nil {
					t.Fatalf("over a slow link: %v", err)
				}
				slowest.most, slowest.late, slowest.all = 0, 0, 0
				l.down.Store(true)
			}
			for range 2 {
				if _, err := c.Push(false); !errors.Is(err, errStatus) || !strings.Contains(err.Error(), " 502") || !strings.Contains(err.Error(), "there is no connection to "+l.Host) {
					t.Errorf("a push whose client waits: %v, want a 502 that says why", err)
				}
				p, err := c.Push(true)
				if err != nil {
					t.Errorf("a push that is to be queued: %v", err)
				}
				if err := c.ReadBack(p); err != nil {
					t.Errorf("what is queued cannot be read back: %v", err)
				}
			}
			// A machine that is busy with other tests may be late now and then; without the rule answers take a dial's 15 seconds.
			if slowest.late > slowest.all/4 || slowest.most > 6*soon {
				t.Errorf("%d of %d answers took more than %s, one of them %s", slowest.late, slowest.all, soon, slowest.most)
			}
			t.Logf("the slowest answer took %s", slowest.most)
			r.healthy()
			l.down.Store(false)
			l.delay.Store(0)
			back := time.Now()
			if _, err := c.Push(false); err != nil && time.Since(back) > soon {
				t.Errorf("once the network is back: %v", err)
			}
			took := r.drained(time.Minute)
			t.Logf("the queue was empty %s after the network was back", time.Since(back))
			if took > 5*time.Second {
				t.Errorf("it took %s to send what was queued once the network was back", took)
			}
			r.verdict()
			r.running.Stop()
		})
	}
}

// timing measures how long answers take.
type timing struct {
	http.RoundTripper
	most time.Duration
	late int // answers that came not soon
	all  int
}

// soon is how quickly everybody is to be answered.
const soon = 2 * time.Second

func (m *timing) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := m.RoundTripper.RoundTrip(r)
	took := time.Since(began)
	m.most = max(m.most, took)
	m.all++
	if took > soon {
		m.late++
	}
	return resp, err
}
