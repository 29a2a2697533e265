package torture

import (
	"testing"
	"time"
)

// sentTwice is how often the bytes of an upstream that resumes may be sent, on
// average.
const sentTwice = 1.2

// TestAnOutageIsOverSoonAfterItEnds has the upstream misbehave in every way in
// turn, half of the time, with tokens that live five seconds and uploads that
// take as long as it is well. Ten of every twenty minutes are three of every six
// seconds here.
func TestAnOutageIsOverSoonAfterItEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		ways  []fault
		keeps bool // what it has received
	}{
		{"it forgets nothing", []fault{refusing, broken, failing, unavailable, busy}, true},
		{"it loses what it had", []fault{lying, forgetting, everything}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, "", 2, 4<<20)
			r.model.TokenLife, r.model.Pace = 5*time.Second, 15*time.Millisecond
			r.config.Upstreams[0].MaxBody = "1MiB"
			r.write()
			for _, c := range r.clients {
				c.Pause = 400 * time.Millisecond
			}
			chance := newChance()
			first := int(*seed % 7)
			var down faults
			r.model.Fault = down.decide
			r.start()
			stop := r.load(1)
			for i := range *outages {
				down.set(c.ways[(i+first)%len(c.ways)](chance))
				<-time.After(3 * time.Second)
				down.set(nil)
				<-time.After(3 * time.Second)
				r.healthy()
			}
			stop()
			took := r.drained(2 * time.Minute)
			acked := r.verdict()
			all, kept := r.model.Received()
			issued, expired := r.model.Tokens()
			times := float64(all) / float64(kept)
			if c.keeps && times > sentTwice {
				t.Errorf("%d bytes were sent of %d: %.2f times", all, kept, times)
			}
			if acked == 0 || issued < 2 || *outages > 3 && expired == 0 {
				t.Errorf("%d pushes were acknowledged, %d tokens issued, %d expired in use: nothing was tested", acked, issued, expired)
			}
			t.Logf("%d outages, %d acknowledged pushes, all there %s after the last one; bytes were sent %.2f times; %d tokens were issued, %d used too late",
				*outages, acked, took, times, issued, expired)
		})
	}
}
