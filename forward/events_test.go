package forward

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestWhatArrivesAndItsManifestAreOnePush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		config := r.given("ann", "config", tiny)
		begin := func(name string) string {
			in := r.Incoming(r.target("ann"), repo(name), "upload", "", "", 0, -1)
			in.End(digest.FromBytes(config), tiny, "")
			return in.about.Push
		}
		id := begin("app")
		if again, other := begin("app"), begin("other"); again != id || other == id || len(id) != 10 {
			t.Errorf("ids %q, %q, and in another repository %q", id, again, other)
		}
		result := r.pushed("ann", "app", "v1", r.image(config))
		if result.Push != id {
			t.Errorf("the push is %q, what arrived %q", result.Push, id)
		}
		if next := begin("app"); next == id {
			t.Error("what comes after the manifest belongs to it")
		}
	})
}

func TestAManifestThatIsPutAgainWhileItIsPushedIsTheSamePush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, g := held(t, isBlobPut)
		config := r.given("ann", "config", tiny)
		one := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(config)))
		r.Incoming(r.target("ann"), repo("app"), "upload", "", "", 0, -1).End("", 0, "gone")
		two := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(config)))
		if one.ID != two.ID {
			t.Errorf("ids %s and %s", one.ID, two.ID)
		}
		synctest.Wait()
		g.pass()
		r.succeeds(two)
	})
}

func TestAFeedMissesNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := New(nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		feed := f.Feed(ctx)
		progress := Event{Status: Pushing, Current: 1}
		for range 3 * feedProgress {
			f.tell(progress)
		}
		for range 100 {
			f.tell(Event{Status: Pushed})
		}
		<-feed.Ready()
		events, missed := feed.Take(nil)
		if len(events) != feedProgress+100 || missed != 2*feedProgress {
			t.Errorf("%d events, %d missed", len(events), missed)
		}
		f.tell(Event{Status: Failed})
		<-feed.Ready()
		if events, _ = feed.Take(events); len(events) != 1 || events[0].Status != Failed || events[0].When.IsZero() {
			t.Errorf("then %+v", events)
		}
		for range feedMost + 5 {
			f.tell(Event{Status: Failed})
		}
		if events, _ = feed.Take(events); len(events) != feedMost {
			t.Errorf("%d events wait", len(events))
		}
		cancel()
		synctest.Wait()
		f.tell(Event{Status: Failed})
		if events, _ = feed.Take(events); len(events) != 0 || f.watched() {
			t.Error("a feed that has ended is fed")
		}
	})
}

func TestBytesThatArriveAreToldTenTimesASecondAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		feed := r.Feed(t.Context())
		in := r.Incoming(r.target("ann"), repo("app"), "upload", "docker", "", 1000, -1)
		for i := range 1000 {
			in.Got(int64(i))
			time.Sleep(time.Millisecond)
		}
		in.End("", 2000, "")
		events, _ := feed.Take(nil)
		if len(events) < 8 || len(events) > 12 {
			t.Errorf("%d events in a second", len(events))
		}
		if first, last := events[0], events[len(events)-1]; first.Current != 1000 || last.Current != 2000 || first.Agent != "docker" || last.Status != Receiving {
			t.Errorf("from %+v to %+v", first, last)
		}
	})
}

// Twenty watchers, some of which never read, cost an event less than a
// thousandth of what its request costs.
func BenchmarkTell(b *testing.B) {
	for _, watchers := range []int{0, 1, 20} {
		b.Run(fmt.Sprint(watchers), func(b *testing.B) {
			f := New(nil, nil)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			var reading sync.WaitGroup
			for i := range watchers {
				switch i % 4 {
				case 0: // stuck
					f.Watch(ctx)
				case 1:
					feed := f.Feed(ctx)
					reading.Go(func() {
						var events []Event
						for {
							select {
							case <-feed.Ready():
								events, _ = feed.Take(events)
							case <-ctx.Done():
								return
							}
						}
					})
				case 2: // a feed that is stuck
					f.Feed(ctx)
				default:
					events := f.Watch(ctx)
					reading.Go(func() {
						for range events {
						}
					})
				}
			}
			e := Event{Principal: "ann", Repo: oci.Repo{Host: host, Name: "app"}, Status: Pushing, Current: 1, Total: 2}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f.tell(e)
				}
			})
			cancel()
			reading.Wait()
		})
	}
}
