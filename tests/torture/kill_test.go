package torture

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestNothingAcknowledgedIsLostToKills(t *testing.T) {
	r := newRig(t, "", 4, 300<<10)
	r.start()
	stop := r.load(0.6)
	chance := rand.New(rand.NewPCG(*seed, 99))
	r.acknowledged()
	for range *kills {
		<-time.After(time.Duration(chance.Int64N(int64(700 * time.Millisecond))))
		r.healthy()
		r.running.Kill()
		r.start()
	}
	stop()
	r.drained(2 * time.Minute)
	acked := r.allThere()
	all, kept := r.model.Received()
	t.Logf("%d kills, %d acknowledged pushes; the slowest start took %s; the upstream got %d bytes and keeps %d", *kills, acked, r.slowest, all, kept)
}
