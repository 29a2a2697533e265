package forward

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/upstream"
	"pushproxy/upstream/upstreamtest"
)

// noise returns size bytes that no other name shares a chunk with.
func (r *rig) noise(name string, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(digestSeed(name)).Read(b)
	r.call(digest.FromBytes(b), name)
	return b
}

func digestSeed(name string) (seed [32]byte) {
	copy(seed[:], digest.FromString(name).Encoded())
	return seed
}

// arriving is a blob on its way from a client.
type arriving struct {
	r *rig
	u *blobcache.Upload
	p string
	b []byte
}

func (r *rig) arriving(principal string, b []byte) *arriving {
	r.t.Helper()
	u, err := r.cache.Begin(r.t.Context(), digest.SHA256, principal)
	noError(r.t, err)
	return &arriving{r, u, principal, b}
}

// send brings the bytes up to a place in the blob.
func (a *arriving) send(to int) {
	a.r.t.Helper()
	_, err := a.u.Write(a.b[a.u.Offset():to])
	noError(a.r.t, err)
	synctest.Wait()
}

// end brings the rest and what follows it in the door.
func (a *arriving) end(name string) {
	a.r.t.Helper()
	a.send(len(a.b))
	d := digest.FromBytes(a.b)
	noError(a.r.t, a.u.Commit(a.r.t.Context(), d))
	noError(a.r.t, a.r.meta.Grant(a.r.t.Context(), a.p, d))
	a.r.Start(a.r.target(a.p), repo(name), d, "", a.u.ID())
	synctest.Wait()
}

const mib = 1 << 20

func TestABlobIsSentOnBeforeItsDigestIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.noise("layer", 5*mib+77)
		a := r.arriving("ann", layer)
		a.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), a.u.ID())
		synctest.Wait()
		r.Streaming(r.target("ann"), repo("app"), a.u.ID())
		synctest.Wait()
		if got := r.reg.Log(); len(got) != 2 || got[1].Method != http.MethodPatch {
			t.Fatalf("before the blob is whole the upstream saw %v", got)
		}
		a.end("app")
		result := r.pushed("ann", "app", "v1", r.image(layer))
		r.saw("POST app", "PATCH app", "PUT app layer", "PUT app:v1")
		if got := hows(result); got[0] != Uploaded {
			t.Errorf("reported as %v", got)
		}
	})
}

func TestBlobsThatBeginDifferentlyAreSentOnSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		var layers [][]byte
		var all []*arriving
		for i := range 3 {
			layers = append(layers, r.noise(fmt.Sprint("layer", i), 4*mib))
			a := r.arriving("ann", layers[i])
			a.send(3 * mib)
			r.Streaming(r.target("ann"), repo("app"), a.u.ID())
			synctest.Wait()
			all = append(all, a)
		}
		patches := 0
		for _, q := range r.reg.Log() {
			if q.Method == http.MethodPatch {
				patches++
			}
		}
		if patches != len(all) {
			t.Errorf("before the blobs are whole %d are sent on, want %d", patches, len(all))
		}
		for _, a := range all {
			a.end("app")
		}
		r.pushed("ann", "app", "v1", r.image(layers...))
	})
}

// A client that is done early waits for one that sends the same and was first, unless that one takes too long.
func TestTheFasterOfTwoClientsWaitsForTheFirstWhileThatGetsOn(t *testing.T) {
	for _, c := range []struct {
		says    string
		size    int // at 1 MiB in 10 seconds
		uploads int
	}{
		{"it will be done soon", 14 * mib, 1},
		{"it will take long", 60 * mib, 2},
	} {
		t.Run(c.says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := memoryRig(t, &upstreamtest.Registry{})
				layer := r.noise("layer", c.size)
				slow, fast := r.arriving("ann", layer), r.arriving("ann", layer)
				slow.send(3 * mib)
				r.Streaming(r.target("ann"), repo("slow"), slow.u.ID())
				synctest.Wait()
				fast.send(3 * mib)
				r.Streaming(r.target("ann"), repo("fast"), fast.u.ID())
				fast.end("fast")
				pushed := make(chan struct{})
				go func() {
					defer close(pushed)
					r.pushed("ann", "fast", "v1", r.image(layer))
				}()
				for at := 4 * mib; at < c.size; at += mib {
					time.Sleep(10 * time.Second)
					slow.send(at)
				}
				select {
				case <-pushed:
					if c.uploads == 1 {
						t.Error("it did not wait")
					}
				default:
					if c.uploads == 2 {
						t.Error("it waited all the time")
					}
				}
				slow.end("slow")
				<-pushed
				r.pushed("ann", "slow", "v1", r.image(layer))
				if got := r.reg.Bytes(); got < int64(c.uploads*c.size) || got > int64(c.uploads*c.size)+mib {
					t.Errorf("the upstream received %d bytes for a blob of %d", got, c.size)
				}
			})
		})
	}
}

func TestABlobWithAKnownDigestFollowsTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.noise("layer", 5*mib+77)
		a := r.arriving("ann", layer)
		r.Arriving(r.target("ann"), repo("app"), a.u.ID(), digest.FromBytes(layer), int64(len(layer)))
		a.send(3 * mib)
		if got := r.reg.Log(); len(got) != 3 || got[2].Method != http.MethodPut {
			t.Fatalf("before the blob is whole the upstream saw %v", got)
		}
		a.end("app")
		r.pushed("ann", "app", "v1", r.image(layer))
		r.saw("HEAD app layer", "POST app", "PUT app layer", "PUT app:v1")
	})
}

func TestAClientsOwnLookSparesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.noise("layer", 3*mib)
		if _, found, err := r.Look(t.Context(), r.target("ann"), repo("app"), digest.FromBytes(layer)); found || err != nil {
			t.Fatal(found, err)
		}
		a := r.arriving("ann", layer)
		r.Arriving(r.target("ann"), repo("app"), a.u.ID(), digest.FromBytes(layer), int64(len(layer)))
		a.end("app")
		r.saw("GET app/tags/list", "HEAD app layer", "POST app", "PUT app layer")
	})
}

func TestARepositoryThatDoesNotExistIsAskedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{Fail: failing(func(q *http.Request) bool {
			return strings.HasSuffix(q.URL.Path, "/tags/list")
		}, http.StatusNotFound)})
		look := func(principal string, b []byte) {
			t.Helper()
			if _, found, err := r.Look(t.Context(), r.target(principal), repo("app"), digest.FromBytes(b)); found || err != nil {
				t.Fatal(found, err)
			}
		}
		one, two := r.noise("one", mib), r.noise("two", mib)
		for _, b := range [][]byte{one, two, one} {
			look("ann", b)
		}
		r.saw("GET app/tags/list")
		look("bob", one)
		r.saw("GET app/tags/list")
		time.Sleep(absentFor + time.Second)
		look("ann", one)
		r.saw("GET app/tags/list")
		r.give("ann", one)
		r.pushed("ann", "app", "v1", r.image(one))
		r.requests()
		time.Sleep(absentFor + time.Second)
		look("ann", two)
		look("ann", two)
		r.saw("HEAD app two")
	})
}

func TestWhatIsThereAlreadyIsNotSentOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.noise("layer", 5*mib)
		r.give("ann", layer)
		r.pushed("ann", "app", "v1", r.image(layer))
		r.requests()
		known := r.arriving("ann", layer)
		r.Arriving(r.target("ann"), repo("app"), known.u.ID(), digest.FromBytes(layer), int64(len(layer)))
		known.end("app")
		r.saw()
		guessed := r.arriving("ann", layer)
		guessed.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), guessed.u.ID())
		guessed.end("app")
		time.Sleep(time.Second)
		r.saw("POST app", "PATCH app", "DELETE app upload")
	})
}

func TestABrokenStreamIsSentFromTheCache(t *testing.T) {
	for says, c := range map[string]struct {
		reg  *upstreamtest.Registry
		want []string
	}{
		"the upstream refuses streams": {&upstreamtest.Registry{RefusePatch: 405}, []string{"POST app", "PATCH app", "DELETE app upload", "HEAD app layer", "POST app", "PUT app layer"}},
		"the end of it is refused": {&upstreamtest.Registry{Fail: failing(func(q *http.Request) bool {
			return q.Method == http.MethodPut && q.ContentLength == 0
		}, 400)}, []string{"POST app", "PATCH app", "PUT app layer", "POST app", "PUT app layer", "DELETE app upload"}},
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := memoryRig(t, c.reg)
				layer := r.noise("layer", 4*mib)
				a := r.arriving("ann", layer)
				a.send(3 * mib)
				r.Streaming(r.target("ann"), repo("app"), a.u.ID())
				a.end("app")
				time.Sleep(time.Minute)
				got, want := r.requests(), c.want
				if !sameSet(got, want) {
					t.Errorf("the upstream saw %q, want %q", got, want)
				}
				r.pushed("ann", "app", "v1", r.image(layer))
			})
		})
	}
}

func sameSet(a, b []string) bool {
	count := map[string]int{}
	for _, x := range a {
		count[x]++
	}
	for _, x := range b {
		count[x]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// failing answers status to what matches.
func failing(match func(*http.Request) bool, status int) func(*http.Request) int {
	return func(q *http.Request) int {
		if match(q) {
			return status
		}
		return 0
	}
}

func TestAnUpstreamThatRefusesStreamsIsSentNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{RefusePatch: 405})
		for i := range 2 {
			a := r.arriving("ann", r.noise(fmt.Sprint("layer", i), 4*mib))
			a.send(3 * mib)
			r.Streaming(r.target("ann"), repo("app"), a.u.ID())
			a.end("app")
			time.Sleep(time.Minute)
		}
		patches := 0
		for _, request := range r.requests() {
			if strings.HasPrefix(request, "PATCH") {
				patches++
			}
		}
		if patches != 1 {
			t.Errorf("%d streams were tried, want 1", patches)
		}
	})
}

func TestWhereBodiesHaveALimitNoneIsSentWithoutAKnownEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		ann := r.target("ann")
		ann.Client.MaxBody = mib
		a := r.arriving("ann", r.noise("layer", 4*mib))
		a.send(3 * mib)
		r.Streaming(ann, repo("app"), a.u.ID())
		time.Sleep(time.Second)
		r.saw()
		a.end("app")
	})
}

func TestAClientThatGoesAwayLeavesNothingUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		a := r.arriving("ann", r.noise("layer", 9*mib))
		a.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), a.u.ID())
		synctest.Wait()
		noError(t, a.u.Cancel(context.Background()))
		time.Sleep(time.Second)
		r.saw("POST app", "PATCH app", "DELETE app upload")
	})
}

func TestAStreamThatIsGivenBackSaysWhichUploadItWasFor(t *testing.T) {
	for name, end := range map[string]func(*arriving){
		"the client goes away": func(a *arriving) { _ = a.u.Cancel(context.Background()) },
		"it is there already":  func(a *arriving) { a.end("app") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := memoryRig(t, &upstreamtest.Registry{})
				layer := r.noise("layer", 5*mib)
				r.give("ann", layer)
				r.pushed("ann", "app", "v1", r.image(layer))
				feed := r.Feed(t.Context())
				a := r.arriving("ann", layer)
				a.send(3 * mib)
				r.Streaming(r.target("ann"), repo("app"), a.u.ID())
				synctest.Wait()
				end(a)
				time.Sleep(time.Second)
				events, _ := feed.Take(nil)
				given := 0
				for _, e := range events {
					if e.Status == Asked && e.Exchange != nil && e.Exchange.Op == upstream.OpCancel {
						given++
						if e.Upload != a.u.ID() {
							t.Errorf("it was given back for upload %q and digest %q", e.Upload, e.Digest)
						}
					}
				}
				if given != 1 {
					t.Errorf("%d uploads were given back", given)
				}
			})
		})
	}
}

func TestAClientThatStallsGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.noise("layer", 9*mib)
		a := r.arriving("ann", layer)
		a.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), a.u.ID())
		time.Sleep(idleFor - time.Second)
		synctest.Wait()
		if busy := r.lane(host).taken(); busy != 1 {
			t.Errorf("%d places are taken before the patience ends, want 1", busy)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if busy := r.lane(host).taken(); busy != 0 {
			t.Errorf("%d places are taken after it, want none", busy)
		}
		a.end("app")
		r.pushed("ann", "app", "v1", r.image(layer))
		r.saw("POST app", "PATCH app", "DELETE app upload", "HEAD app layer", "POST app", "PUT app layer", "PUT app:v1")
	})
}

func (l *lane) taken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy
}

func TestAStalledClientDoesNotHoldUpAnotherThatSendsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.noise("layer", 9*mib)
		d := digest.FromBytes(layer)
		stalls, sends := r.arriving("ann", layer), r.arriving("ann", layer)
		r.Arriving(r.target("ann"), repo("app"), stalls.u.ID(), d, int64(len(layer)))
		stalls.send(3 * mib)
		r.Arriving(r.target("ann"), repo("app"), sends.u.ID(), d, int64(len(layer)))
		sends.end("app")
		began := time.Now()
		r.pushed("ann", "app", "v1", r.image(layer))
		if waited := time.Since(began); waited > idleFor+time.Second {
			t.Errorf("the push waited %s for the other client", waited)
		}
		noError(t, stalls.u.Cancel(context.Background()))
	})
}

func TestOneImageToManyRepositoriesCrossesTheLinkOnce(t *testing.T) {
	for says, begin := range map[string]func(r *rig, a *arriving, name string){
		"with a digest known at the start": func(r *rig, a *arriving, name string) {
			r.Arriving(r.target("ann"), repo(name), a.u.ID(), digest.FromBytes(a.b), int64(len(a.b)))
			a.send(3 * mib)
		},
		"with a digest known at the end": func(r *rig, a *arriving, name string) {
			a.send(3 * mib)
			r.Streaming(r.target("ann"), repo(name), a.u.ID())
			synctest.Wait()
		},
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := memoryRig(t, &upstreamtest.Registry{})
				base := r.noise("base", 6*mib)
				var all []*arriving
				for i := range 12 {
					a := r.arriving("ann", base)
					begin(r, a, fmt.Sprint("app", i))
					all = append(all, a)
				}
				// The one whose bytes are being sent is not the first to be whole.
				for i := range 12 {
					n := (i + 1) % 12
					all[n].end(fmt.Sprint("app", n))
				}
				for i := range 12 {
					r.pushed("ann", fmt.Sprint("app", i), "v1", r.image(base))
				}
				if got := r.reg.Bytes(); got > int64(len(base))+mib {
					t.Errorf("the upstream received %d bytes for a blob of %d", got, len(base))
				}
			})
		})
	}
}

func TestAHundredClientsThatSendTheSameAreOneUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		base := r.noise("base", 3*mib)
		var all []*arriving
		for range 100 {
			a := r.arriving("ann", base)
			a.send(2*mib + 1)
			r.Streaming(r.target("ann"), repo("app"), a.u.ID())
			all = append(all, a)
		}
		for i := range all {
			all[len(all)-1-i].end("app")
		}
		r.pushed("ann", "app", "v1", r.image(base))
		if got := r.reg.Bytes(); got > int64(len(base))+mib {
			t.Errorf("the upstream received %d bytes for a blob of %d", got, len(base))
		}
	})
}

func TestAPacedClientIsHeldToTheUpstreamsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(q *http.Request) int {
			if q.Method == http.MethodPut {
				g.wait(q)
			}
			return 0
		}})
		layer := r.noise("layer", 20*mib)
		a := r.arriving("ann", layer)
		in := r.Arriving(r.target("ann"), repo("app"), a.u.ID(), digest.FromBytes(layer), int64(len(layer)))
		in.Pace(t.Context(), paceLeast)
		a.send(paceLeast)
		held := make(chan struct{})
		go func() {
			in.Pace(t.Context(), paceLeast+1)
			close(held)
		}()
		time.Sleep(20 * time.Second)
		select {
		case <-held:
			t.Error("the client was not held while the upstream took nothing")
		default:
		}
		g.pass()
		<-held
		a.end("app")
		r.pushed("ann", "app", "v1", r.image(layer))
	})
}

func TestAPacedClientGoesOnSoonAfterTheUpstreamHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &arrival{}
		time.AfterFunc(4*time.Millisecond, func() {
			a.since.Store(time.Now().UnixNano())
			a.sent.Store(2 * mib)
		})
		began := time.Now()
		Arriving{a}.Pace(t.Context(), paceLeast+mib)
		if waited := time.Since(began); waited > 10*time.Millisecond {
			t.Errorf("it was held for %s, the upstream began after 4ms", waited)
		}
	})
}
