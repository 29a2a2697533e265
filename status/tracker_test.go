package status

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/upstream/upstreamtest"
)

func TestABlobThatArrivesIsThePushOfTheManifestThatFollows(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		config, layer := content("config", 100), content("layer", 200<<10)
		finish := r.sending("ann", "acme/app", layer)
		early := r.now()
		if len(early) != 1 || early[0].State != Receiving || len(early[0].Blobs) != 1 {
			t.Fatalf("while a blob arrives: %+v", early)
		}
		b := early[0].Blobs[0]
		if b.State != BlobReceiving || b.Received != 100<<10 || b.Size != 200<<10 || b.ReceiveBegan.IsZero() || !b.ReceiveEnded.IsZero() {
			t.Errorf("the blob: %+v", b)
		}
		time.Sleep(time.Second)
		finish()
		r.receive("ann", "acme/app", config)
		p := r.pushed("ann", "acme/app", "v1", r.image(config, layer))
		if p.ID != early[0].ID || p.State != Done || p.Agent != "docker/29 (test)" || p.Principal != "ann" || !slices.Equal(p.Tags, []string{"v1"}) {
			t.Errorf("the push: %+v", p)
		}
		if p.Credential != "ann from a test" || p.Finished.IsZero() {
			t.Errorf("credential %q, finished %s", p.Credential, p.Finished)
		}
		if got := blobStates(p); !slices.Equal(got, []BlobState{BlobPushed, BlobPushed}) || p.Blobs[0].Size != 100 {
			t.Errorf("blobs in the manifest's order: %+v", p.Blobs)
		}
		if l := p.Blobs[1]; l.Received != 200<<10 || l.Sent != 200<<10 || l.ReceiveEnded.Sub(l.ReceiveBegan) != time.Second || l.SendEnded.IsZero() || l.SendBegan.IsZero() {
			t.Errorf("the layer: %+v", l)
		}
		if s := p.Sum; s.Uploaded != 2 || s.SentBytes != 200<<10+100 || s.Requests != len(told(p)) {
			t.Errorf("sum: %+v", s)
		}
		if len(r.now()) != 0 {
			t.Errorf("still under way: %+v", r.now())
		}
	})
}

// The explanation is worth what it leaves out: nothing.
func TestTheExplanationIsWhatTheUpstreamWasAsked(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		config, base, layer := content("config", 100), content("base", 300<<10), content("layer", 200<<10)
		check := func(what string, p Push, text ...string) {
			t.Helper()
			if got, want := told(p), r.asked(); !slices.Equal(got, want) {
				t.Errorf("%s: told %q, the upstream answered %q", what, got, want)
			}
			for _, part := range text {
				if !slices.ContainsFunc(p.Steps, func(s Step) bool { return strings.Contains(s.Text, part) }) {
					t.Errorf("%s: no step says %q: %+v", what, part, p.Steps)
				}
			}
		}
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPut, Path: "/blobs/", Delay: time.Second, Times: 2})
		r.receive("ann", "acme/base", config)
		r.receive("ann", "acme/base", base)
		check("a first push", r.pushed("ann", "acme/base", "v1", r.image(config, base)), "HEAD said 404", "upload started (202)", "uploaded 307 kB in 1 s at 307 kB/s (201)", "manifest stored as v1 (201)")

		synctest.Wait()
		r.reg.MountAnswer = http.StatusAccepted
		r.receive("ann", "acme/app", config)
		r.receive("ann", "acme/app", base)
		p := r.pushed("ann", "acme/app", "v1", r.image(config, base))
		check("a push whose mounts are refused", p, "mount from acme/base refused with 202")
		r.reg.MountAnswer = 0
		p = r.pushed("ann", "acme/third", "v1", r.image(config, base))
		check("a push that is mounted", p, "mounted from acme/app (201)")
		if p.Sum.Mounted != 2 || p.Sum.MountedBytes != 300<<10+100 || p.Blobs[1].From != "acme/app" || p.Sum.SavedMillis == 0 {
			t.Errorf("sum: %+v, %+v", p.Sum, p.Blobs)
		}
		check("a push of what is there", r.pushed("ann", "acme/third", "v1", r.image(config, base)), "HEAD of manifest v1 said 200")

		r.reg.NoStatus = true
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPut, Path: "/blobs/", Reset: true, ResetAt: 100_000},
			upstreamtest.Fault{Method: http.MethodPut, Path: "/manifests/", Status: http.StatusTooManyRequests, RetryAfter: "2"})
		r.receive("ann", "acme/app", layer)
		p = r.pushed("ann", "acme/app", "v2", r.image(config, base, layer))
		check("a push through a bad time", p, "got no answer: the connection broke", "tried again in", "manifest v2 was told to slow down (429)", "(attempt 2)", "Too Many Requests")
		if r.tracker.mu.Lock(); len(r.tracker.open) > 0 {
			t.Errorf("the retried manifest left %d gatherings behind", len(r.tracker.open))
		}
		r.tracker.mu.Unlock()
		if p.Blobs[2].State != BlobPushed || p.Blobs[2].Again == 0 || p.Sum.SentBytes < 300_000 {
			t.Errorf("what was sent twice: %+v, %+v", p.Blobs[2], p.Sum)
		}
		u := r.server.snapshot(all).Upstreams[0]
		if len(u.Limits) != 1 || u.Failures != 2 || u.Reachable != "yes" || u.Credential != "ann from a test" && u.Credential != "" {
			t.Errorf("the upstream: %+v", u)
		}
	})
}

func TestAnUnchangedPushIsOneHEAD(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		config := content("config", 100)
		r.receive("ann", "acme/app", config)
		first := r.pushed("ann", "acme/app", "v1", r.image(config))
		p := r.pushed("ann", "acme/app", "v1", r.image(config))
		if p.State != Unchanged || p.ID == first.ID || p.Sum.Existed != 1 || p.Sum.Requests != 1 || len(p.Steps) != 1 {
			t.Errorf("the push: %+v", p)
		}
	})
}

func TestTheChildrenOfAnIndexAreItsPush(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		amd, arm := content("amd", 100<<10), content("arm", 90<<10)
		var children []Push
		for _, b := range [][]byte{amd, arm} {
			r.receive("ann", "acme/app", b)
			children = append(children, r.pushed("ann", "acme/app", "", r.image(b)))
			time.Sleep(2 * time.Second)
		}
		if children[0].State != Done {
			t.Errorf("a child is done before its index comes: %s", children[0].State)
		}
		m := r.index(r.image(amd), r.image(arm))
		p := r.pushed("ann", "acme/app", "v1", m)
		if p.ID != children[0].ID || p.ID != children[1].ID {
			t.Errorf("the index is %s, its children %s and %s", p.ID, children[0].ID, children[1].ID)
		}
		if p.Digest != m.Digest(digest.SHA256).String() || p.State != Done || len(p.Blobs) != 4 || p.Sum.Uploaded != 2 {
			t.Errorf("the push: %+v", p)
		}
		for _, b := range p.Blobs {
			if b.State != BlobPushed && b.State != BlobExists {
				t.Errorf("%s: %s", b.Digest, b.State)
			}
		}
		if got := len(r.server.snapshot(all).Finished); got != 1 {
			t.Errorf("%d pushes, want one", got)
		}
		// What comes by its digest alone and has nothing to do with it is its own.
		other := content("other", 1000)
		r.receive("ann", "acme/app", other)
		single := r.pushed("ann", "acme/app", "", r.image(other))
		tagged := r.pushed("ann", "acme/app", "v9", r.image(amd))
		if single.ID == p.ID || tagged.ID == single.ID {
			t.Errorf("three pushes have the ids %s, %s, %s", p.ID, single.ID, tagged.ID)
		}
		if single := r.know(single.ID); single.State != Done || len(single.Blobs) != 1 {
			t.Errorf("the push by digest: %+v", single)
		}
	})
}

func TestPushesAtTheSameTimeHaveTheirOwnBlobs(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		shared, one, two := content("shared", 100<<10), content("one", 100<<10), content("two", 120<<10)
		r.receive("ann", "acme/app", shared)
		r.receive("ann", "acme/app", one)
		finish := r.sending("ann", "acme/app", two)
		first := r.pushed("ann", "acme/app", "one", r.image(shared, one))
		if got := len(first.Blobs); got != 2 {
			t.Errorf("the first push has %d blobs: %+v", got, first.Blobs)
		}
		waiting := r.now()
		time.Sleep(time.Second)
		finish()
		second := r.pushed("ann", "acme/app", "two", r.image(shared, two))
		if second.ID == first.ID || len(second.Blobs) != 2 {
			t.Errorf("first %s, second %+v", first.ID, second)
		}
		if b := second.Blobs[1]; b.Received != 120<<10 || b.State != BlobPushed {
			t.Errorf("the second push's own blob: %+v; before its manifest: %+v", b, waiting)
		}
		if got, want := told(first, second), r.asked(); !slices.Equal(got, want) {
			t.Errorf("told %q, the upstream answered %q", got, want)
		}
	})
}

// A blob of another push that is whole when a manifest has just come must not
// bring that push back to life.
func TestABlobThatEndsAfterAnothersManifestIsNotThatPushs(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		one, two := content("one", 1000), content("two", 1000)
		r.receive("ann", "acme/app", one)
		finish := r.sending("ann", "acme/app", two)
		first := r.pushed("ann", "acme/app", "one", r.image(one))
		finish()
		synctest.Wait()
		if again := r.know(first.ID); again.State != Done || len(again.Blobs) != 1 {
			t.Errorf("the finished push: %+v", again)
		}
		second := r.pushed("ann", "acme/app", "two", r.image(two))
		if second.ID == first.ID || len(second.Blobs) != 1 || second.Blobs[0].Received != 1000 || len(r.now()) != 0 {
			t.Errorf("the second push: %+v; under way %+v", second, r.now())
		}
	})
}

// A client that only asks for a blob which is here already has it sent on: no byte of it is received for the push.
func TestAPushBeginsWhenItsFirstBlobIsSentOnThoughNoneIsReceived(t *testing.T) {
	t.Parallel()
	for says, status := range map[string]int{"the upstream takes it": 0, "the upstream is away": http.StatusServiceUnavailable} {
		t.Run(says, func(t *testing.T) {
			bubble(t, "", func(t *testing.T, r *rig) {
				one, two := content("one", 1000), content("two", 1000)
				r.brings("ann", "acme/other", "v1", two)
				r.reg.Fail = func(*http.Request) int { return status }
				began := time.Now()
				r.forward.Start(r.target("ann"), repoOf("acme/app"), digest.FromBytes(two), "", "")
				synctest.Wait()
				r.receive("ann", "acme/app", one)
				for tag, blob := range map[string][]byte{"one": one, "two": two} {
					id, err := r.put("ann", "acme/app", tag, r.image(blob))
					if p := r.know(id); (err == nil) != (status == 0) || p.Started.Before(began) || p.Finished.Before(p.Started) {
						t.Errorf("%s: %v, began %s, %+v", tag, err, began, p)
					}
				}
			})
		})
	}
}

func TestABlobThatTwoPushesWaitForIsToldInBoth(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		big := content("big", 500<<10)
		go1, go2 := content("one", 100), content("two", 100)
		hold := make(chan struct{})
		r.reg.Fail = func(req *http.Request) int {
			if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/") && req.ContentLength > 1000 {
				<-hold
			}
			return 0
		}
		for _, b := range [][]byte{big, go1, go2} {
			r.receive("ann", "acme/app", b)
		}
		one, err := r.forward.Submit(t.Context(), r.job("ann", "acme/app", "one", r.image(go1, big)))
		r.must(err)
		synctest.Wait()
		two, err := r.forward.Submit(t.Context(), r.job("ann", "acme/app", "two", r.image(go2, big)))
		r.must(err)
		synctest.Wait()
		for _, p := range r.now() {
			if got := p.Blobs[1].State; got != BlobPushing {
				t.Errorf("push %s: the blob that both wait for is %q", p.ID, got)
			}
		}
		close(hold)
		_, err = one.Wait(t.Context())
		r.must(err)
		_, err = two.Wait(t.Context())
		r.must(err)
		synctest.Wait()
		for _, id := range []string{one.ID, two.ID} {
			p := r.know(id)
			uploads := 0
			for _, s := range p.Steps {
				if s.Op == "upload" && s.Blob == string(digest.FromBytes(big)) {
					uploads++
				}
			}
			if uploads != 1 || p.Blobs[1].State != BlobPushed || p.Blobs[1].Sent != 500<<10 {
				t.Errorf("push %s: %d uploads of the blob, %+v", id, uploads, p.Blobs[1])
			}
		}
	})
}

func TestAPushWithoutAManifestStops(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		r.receive("ann", "acme/app", content("layer", 1000))
		id := r.now()[0].ID
		time.Sleep(59 * time.Second)
		if r.now()[0].State != Receiving {
			t.Error("it stopped too soon")
		}
		time.Sleep(2 * time.Second)
		if len(r.now()) != 0 {
			t.Error("it goes on")
		}
		if p := r.know(id); p.State != Stopped || p.Why == "" || len(p.Blobs) != 1 {
			t.Errorf("the push: %+v", p)
		}
		r.receive("ann", "acme/app", content("other", 1000))
		if again := r.now(); len(again) != 1 || again[0].ID == id {
			t.Errorf("what comes later: %+v", again)
		}
	})
}

func TestAFailedPushSaysWhy(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		config := content("config", 100)
		r.receive("ann", "acme/app", config)
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPut, Path: "/manifests/", Status: http.StatusForbidden, Code: "DENIED"})
		id, err := r.put("ann", "acme/app", "v1", r.image(config))
		p := r.know(id)
		if err == nil || p.State != Failed || !strings.Contains(p.Why, "403") || !strings.Contains(p.Why, "acme/app") {
			t.Errorf("the push: %v, %+v", err, p)
		}
	})
}

func TestOthersSeeNothing(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		r.server.Usage = nil
		config := content("config", 100)
		r.receive("ann", "acme/app", config)
		p := r.pushed("ann", "acme/app", "v1", r.image(config))
		r.receive("ann", "acme/later", content("more", 100))
		for _, v := range []Viewer{{Principal: "bob"}, {}} {
			s := r.server.snapshot(v)
			if len(s.Pushes)+len(s.Finished)+len(s.Queue)+len(s.Upstreams) > 0 || s.Store != (Store{}) {
				t.Errorf("%q sees %+v", v.Principal, s)
			}
			if _, ok := r.server.push(v, p.ID); ok {
				t.Errorf("%q sees the push", v.Principal)
			}
			if all, _ := r.server.since(v, 0); len(all) > 0 {
				t.Errorf("%q is told %q", v.Principal, all)
			}
		}
		synctest.Wait()
		own := r.server.snapshot(Viewer{Principal: "ann"})
		if len(own.Pushes) != 1 || len(own.Finished) != 1 || len(own.Upstreams) != 1 {
			t.Errorf("ann sees %+v", own)
		}
	})
}

func TestAPullIsNoPush(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		layer := content("layer", 1000)
		r.reg.AddBlob("acme/app", layer)
		c := r.target("ann").Client
		_, _, _ = c.HeadManifest(t.Context(), repoOf("acme/app"), "v1", nil)
		_, _, err := c.GetManifest(t.Context(), repoOf("acme/app"), "v1", nil)
		if err == nil {
			t.Error("there is a manifest")
		}
		if got := r.now(); len(got) != 0 {
			t.Errorf("pushes: %+v", got)
		}
		time.Sleep(2 * warmFor)
		synctest.Wait()
		r.tracker.mu.Lock()
		defer r.tracker.mu.Unlock()
		if len(r.tracker.at)+len(r.tracker.open)+len(r.tracker.byID) > 0 {
			t.Error("what was only asked is still at hand")
		}
	})
}

// What was begun for a push is told of that push, also where its answer comes when
// the push has failed; what begins later is the next one's.
func TestAnAnswerThatComesAfterItsPushFailedIsNotTheNextPushs(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		slow, refused := content("slow", 300<<10), content("refused", 100<<10)
		late := make(chan struct{})
		r.reg.Fail = func(req *http.Request) int {
			if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/") {
				if req.ContentLength == int64(len(slow)) {
					<-late
					return 0
				}
				time.Sleep(time.Second)
				return http.StatusForbidden
			}
			return 0
		}
		r.receive("ann", "acme/app", slow)
		r.receive("ann", "acme/app", refused)
		id, err := r.put("ann", "acme/app", "v1", r.image(slow, refused))
		if err == nil {
			t.Fatal("a refused blob was pushed")
		}
		r.reg.Fail = nil
		time.Sleep(time.Second)
		again := r.sending("ann", "acme/app", slow)
		close(late)
		synctest.Wait()
		time.Sleep(time.Second)
		again()
		if _, found, err := r.target("ann").Client.HeadBlob(t.Context(), repoOf("acme/app"), digest.FromBytes(slow)); err != nil || !found {
			t.Fatalf("the slow blob: %t, %v", found, err)
		}
		r.receive("ann", "acme/app", refused)
		second := r.pushed("ann", "acme/app", "v2", r.image(slow, refused))
		of := func(p Push, op string) (codes []int) { // of the slow blob's requests
			for _, s := range p.Steps {
				if s.Op == op && s.Blob == digest.FromBytes(slow).String() {
					codes = append(codes, s.Code)
				}
			}
			return codes
		}
		first := r.know(id)
		if first.State != Failed || !slices.Equal(of(first, "upload"), []int{201}) || !slices.Equal(of(first, "head"), []int{404}) {
			t.Errorf("the push that failed: %+v", first)
		}
		if slices.ContainsFunc(second.Steps, func(s Step) bool { return s.Code == http.StatusNoContent }) {
			t.Errorf("the next push cancelled what the failed one had begun: %+v", second.Steps)
		}
		if len(of(second, "upload")) > 0 || !slices.Equal(of(second, "head"), []int{200}) {
			t.Errorf("the push after it: %+v", second.Steps)
		}
		if got, want := told(first, second), r.asked(); !slices.Equal(got, want) {
			t.Errorf("told %q, the upstream answered %q", got, want)
		}
	})
}

func TestARequestThatOutlivesItsPushIsAlsoThatOfWhoWaitsForIt(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		slow, refused, other := content("slow", 300<<10), content("refused", 100<<10), content("other", 1000)
		late := make(chan struct{})
		r.reg.Fail = func(req *http.Request) int {
			if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/") {
				switch req.ContentLength {
				case int64(len(slow)):
					<-late
				case int64(len(refused)):
					time.Sleep(time.Second)
					return http.StatusForbidden
				}
			}
			return 0
		}
		r.receive("ann", "acme/app", slow)
		r.receive("ann", "acme/app", refused)
		id, err := r.put("ann", "acme/app", "v1", r.image(slow, refused))
		if err == nil {
			t.Fatal("a refused blob was pushed")
		}
		r.receive("ann", "acme/app", other)
		second, err := r.forward.Submit(t.Context(), r.job("ann", "acme/app", "v2", r.image(other, slow)))
		r.must(err)
		synctest.Wait()
		close(late)
		_, err = second.Wait(t.Context())
		r.must(err)
		synctest.Wait()
		for _, id := range []string{id, second.ID} {
			if !slices.ContainsFunc(r.know(id).Steps, func(s Step) bool {
				return s.Op == "upload" && s.Code == 201 && s.Blob == digest.FromBytes(slow).String()
			}) {
				t.Errorf("push %s does not say how the blob came to be there: %+v", id, r.know(id).Steps)
			}
		}
	})
}
