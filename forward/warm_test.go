package forward

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestAPushIsPreparedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		var warmed atomic.Int32
		target := r.target("ann")
		target.Warm = func(context.Context, oci.Repo) error { warmed.Add(1); return nil }
		for range 9 {
			r.Warm(target, repo("app"))
		}
		synctest.Wait()
		if warmed.Load() != 1 {
			t.Errorf("prepared %d times at once, want once", warmed.Load())
		}
		r.Warm(target, repo("other"))
		time.Sleep(warmFor + time.Second)
		r.Warm(target, repo("app"))
		synctest.Wait()
		if warmed.Load() != 3 {
			t.Errorf("prepared %d times, want one more for another repository and one for later", warmed.Load())
		}
	})
}
