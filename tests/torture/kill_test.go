package torture

import (
	"fmt"
	"math/rand/v2"
	"sync"
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
	acked := r.verdict()
	for _, c := range r.clients {
		for _, p := range c.Pushes() {
			if p.Acked {
				if err := c.ReadBack(p); err != nil {
					t.Errorf("an acknowledged push cannot be read back: %v", err)
				}
			}
		}
		for _, w := range c.Wrong() {
			t.Error(w)
		}
	}
	if acked == 0 {
		t.Error("nothing was acknowledged")
	}
	all, kept := r.model.Received()
	t.Logf("%d kills, %d acknowledged pushes; the slowest start took %s; the upstream got %d bytes and keeps %d", *kills, acked, r.slowest, all, kept)
}

func TestALargeCacheOpensQuicklyAfterAKill(t *testing.T) {
	if *gib == 0 {
		t.Skip("-gib=0")
	}
	r := newRig(t, "", 2, 1)
	r.start()
	var filling sync.WaitGroup
	for _, c := range r.clients {
		filling.Go(func() {
			layer := c.bytes(32 << 20)
			for i := range *gib << 10 / 64 {
				copy(layer, fmt.Sprint("layer ", i, c.Repo))
				if err := c.blob(layer); err != nil {
					t.Errorf("blob %d: %v", i, err)
					return
				}
			}
		})
	}
	filling.Wait()
	for range 5 {
		// The last value log is in use when it dies.
		if err := r.clients[0].blob(r.clients[0].bytes(24 << 20)); err != nil {
			t.Fatal(err)
		}
		r.running.Kill()
		began := time.Now()
		r.start()
		t.Logf("%d GiB: it answered after %s", *gib, time.Since(began))
	}
}
