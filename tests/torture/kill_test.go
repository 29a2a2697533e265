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
	acked := r.allThere()
	all, kept := r.model.Received()
	t.Logf("%d kills, %d acknowledged pushes; the slowest start took %s; the upstream got %d bytes and keeps %d", *kills, acked, r.slowest, all, kept)
}

func TestALargeCacheOpensQuicklyAfterAKill(t *testing.T) {
	if *gib == 0 {
		t.Skip("left out: -gib=0")
	}
	r := newRig(t, "", 2, 1)
	r.start()
	// An eighth, a quarter, a half and all: what the time grows with is shown too.
	for part, have := 8, 0; part > 0; part /= 2 {
		want := *gib << 10 / part / 64
		r.fill(32<<20, have, want)
		have = want
		slowest := r.opens()
		t.Logf("%g GiB in layers of 32 MiB, %d blobs, storage %s: it answered %s after a kill at the slowest", float64(*gib)/float64(part), 2*want, *storage, slowest)
	}
}

func TestACacheOfManyBlobsOpensQuicklyAfterAKill(t *testing.T) {
	if *blobs == 0 {
		t.Skip("left out: -blobs=0")
	}
	r := newRig(t, "", 2, 1)
	r.start()
	for part, have := 8, 0; part > 0; part /= 2 {
		want := *blobs / part / 2
		r.fill(5<<10, have, want)
		have = want
		slowest := r.opens()
		t.Logf("%d blobs of 5 KiB, storage %s: it answered %s after a kill at the slowest", 2*want, *storage, slowest)
	}
}

// fill has two clients bring blobs, numbered from have to want each.
func (r *rig) fill(size, have, want int) {
	r.t.Helper()
	var filling sync.WaitGroup
	for _, c := range r.clients {
		filling.Go(func() {
			layer := c.bytes(size)
			for i := have; i < want; i++ {
				copy(layer, fmt.Sprint("layer ", i, c.Repo, " "))
				if err := c.blob(layer); err != nil {
					r.t.Errorf("blob %d: %v", i, err)
					return
				}
			}
		})
	}
	filling.Wait()
}

// opens kills the program five times and returns the longest time until it
// answered again.
func (r *rig) opens() (slowest time.Duration) {
	r.t.Helper()
	for range 5 {
		// The last value log is in use when it dies.
		if err := r.clients[0].blob(r.clients[0].bytes(24 << 20)); err != nil {
			r.t.Fatal(err)
		}
		r.running.Kill()
		began := time.Now()
		r.start()
		slowest = max(slowest, time.Since(began))
	}
	return slowest
}
