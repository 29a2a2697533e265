package status

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/authinject"
	"pushproxy/forward"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

// incoming is a request of a client that sends a blob without saying which.
func (r *rig) incoming(name, upload string, offset int64) *forward.Incoming {
	return r.forward.Incoming(r.target("ann"), repoOf(name), upload, "docker/29 (test)", "", offset, -1)
}

// only returns the one blob of the one push that is under way.
func (r *rig) only() Blob {
	r.t.Helper()
	pushes := r.now()
	if len(pushes) != 1 || len(pushes[0].Blobs) != 1 {
		r.t.Fatalf("under way: %+v", pushes)
	}
	return pushes[0].Blobs[0]
}

func TestABlobIsFollowedFromItsFirstByteToItsDigest(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		d := digest.FromString("blob").String()
		in := r.incoming("acme/app", "u1", 0)
		in.Got(500)
		if b := r.only(); b.State != BlobReceiving || b.Digest != "" || b.Upload != "u1" || b.Received != 500 || b.Size != -1 {
			t.Errorf("while it arrives: %+v", b)
		}
		in.End("", 500, "the client left")
		if b := r.only(); b.State != BlobFailed || b.Why != "the client left" || b.Received != 500 {
			t.Errorf("when its request broke off: %+v", b)
		}
		time.Sleep(time.Second)
		in = r.incoming("acme/app", "u1", 500)
		if b := r.only(); b.State != BlobReceiving || b.Why != "" || b.Received != 500 || time.Since(b.ReceiveBegan) != time.Second {
			t.Errorf("when it goes on: %+v", b)
		}
		in.End(digest.Digest(d), 800, "")
		if b := r.only(); b.State != BlobWaiting || b.Digest != d || b.Received != 800 || b.Size != 800 || b.ReceiveEnded.Sub(b.ReceiveBegan) != time.Second {
			t.Errorf("when it is whole: %+v", b)
		}
		// Clients that are sent away come again with the same.
		r.incoming("acme/app", "u2", 0).End(digest.Digest(d), 800, "")
		if b := r.only(); b.Digest != d || b.Received != 800 || b.Upload != "u1" {
			t.Errorf("when it has come twice: %+v", b)
		}
		r.incoming("acme/app", "u3", 0).End("", 0, "cancelled")
		if b := r.only(); b.Digest != d {
			t.Errorf("when another was given up: %+v", b)
		}
	})
}

// Sent on before its digest is known, a blob's requests are told of it all the same.
func TestTheRequestsOfAStreamAreThoseOfItsBlob(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		large, config := content("large", 6<<20), content("config", 100)
		d := digest.FromBytes(large)
		u, err := r.cache.Begin(t.Context(), digest.SHA256, "ann")
		r.must(err)
		in := r.incoming("acme/app", u.ID(), 0)
		_, err = u.Write(large[:4<<20])
		r.must(err)
		in.Got(4 << 20)
		r.forward.Streaming(r.target("ann"), repoOf("acme/app"), u.ID())
		time.Sleep(time.Second)
		if b := r.only(); b.State != BlobReceiving || b.SendBegan.IsZero() || b.Sent == 0 {
			t.Errorf("while it arrives: %+v", b)
		}
		_, err = u.Write(large[4<<20:])
		r.must(err)
		r.must(u.Commit(t.Context(), d))
		r.must(r.meta.Grant(t.Context(), "ann", d))
		in.End(d, int64(len(large)), "")
		r.forward.Start(r.target("ann"), repoOf("acme/app"), d, "", u.ID())
		r.receive("ann", "acme/app", config)
		p := r.pushed("ann", "acme/app", "v1", r.image(config, large))
		for _, s := range p.Steps {
			if s.Blob == "" {
				t.Errorf("nobody knows which blob this was for: %+v", s)
			}
		}
		if b := p.Blobs[1]; b.Digest != d.String() || b.Received != 6<<20 || b.Sent != 6<<20 || !b.State.there() || b.SendBegan.After(b.ReceiveEnded) {
			t.Errorf("the blob: %+v", b)
		}
	})
}

func TestALoginIsAStepOfThePushThatNeededIt(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		ctx := oci.ContextWithRepo(t.Context(), repoOf("acme/app"))
		for _, login := range []authinject.Event{
			{Kind: authinject.EventProbe, Server: upstreamHost, Status: 401, Outcome: authinject.Succeeded},
			{Kind: authinject.EventHelper, Server: upstreamHost, Helper: "docker-credential-pass", Outcome: authinject.NoneFound},
			{Kind: authinject.EventToken, Server: "auth.test", Grant: authinject.GrantPassword, Status: 403, Outcome: authinject.Refused},
			{Kind: authinject.EventToken, Server: "auth.test", Grant: authinject.GrantAnonymous, Status: 200, Outcome: authinject.Succeeded},
			{Kind: authinject.EventToken, Server: "auth.test", Grant: authinject.GrantRefresh, Outcome: authinject.Broken},
		} {
			login.Host, login.Began = upstreamHost, time.Now()
			r.forward.LoggedIn(ctx, "ann", login)
		}
		// One that was for no repository is for no push.
		r.forward.LoggedIn(t.Context(), "ann", authinject.Event{Kind: authinject.EventProbe, Host: upstreamHost, Began: time.Now()})
		config := content("config", 100)
		r.receive("ann", "acme/app", config)
		p := r.pushed("ann", "acme/app", "v1", r.image(config))
		var texts []string
		for _, s := range p.Steps {
			if s.Op == "token" {
				texts = append(texts, s.Text)
			}
		}
		if want := []string{
			"asked registry.test how to log in (401)", "docker-credential-pass asked for a credential: it has none",
			"token asked of auth.test with user name and password: refused (403)", "token asked of auth.test without a credential (200)",
			"token asked of auth.test with an identity token: failed",
		}; !slices.Equal(texts, want) {
			t.Errorf("told %q, want %q", texts, want)
		}
		if p.Sum.Requests != len(p.Steps)-len(texts) {
			t.Errorf("%d requests to the upstream of %d steps", p.Sum.Requests, len(p.Steps))
		}
	})
}

func TestABlobThatIsTriedAgainSaysSoUntilItGoesOn(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		hold := make(chan struct{})
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPost, Path: "/blobs/", Status: http.StatusBadGateway})
		r.reg.Fail = func(req *http.Request) int {
			if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/") {
				<-hold
			}
			return 0
		}
		blob := content("blob", 1000)
		r.receive("ann", "acme/app", blob)
		if b := r.only(); b.State != BlobRetrying || !strings.Contains(b.Why, "502") || !b.RetryAt.After(time.Now()) {
			t.Errorf("while it waits: %+v", b)
		}
		time.Sleep(time.Minute / 2)
		if b := r.only(); b.State == BlobRetrying || b.Why != "" || !b.RetryAt.IsZero() {
			t.Errorf("when it goes on: %+v", b)
		}
		close(hold)
		p := r.pushed("ann", "acme/app", "v1", r.image(blob))
		if i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Op == "decide" && strings.HasPrefix(s.Text, "tried again in ") }); i < 0 || p.Steps[i].Blob != digest.FromBytes(blob).String() {
			t.Errorf("no step says that it was tried again: %+v", p.Steps)
		}
		if p.Sum.Requests != len(told(p)) {
			t.Errorf("%d requests, %d steps of requests", p.Sum.Requests, len(told(p)))
		}
	})
}

func TestWhatComesAfterAChildOfAnIndexOpensItsPushAgain(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		amd, arm := content("amd", 1000), content("arm", 2000)
		r.receive("ann", "acme/app", amd)
		child := r.pushed("ann", "acme/app", "", r.image(amd))
		// Also what was begun before and finds that all is there.
		r.forward.Start(r.target("ann"), repoOf("acme/app"), digest.FromBytes(amd), "", "")
		synctest.Wait()
		finish := r.sending("ann", "acme/app", arm)
		if now := r.now(); len(now) != 1 || now[0].ID != child.ID || now[0].State != Receiving || !now[0].Finished.IsZero() || len(now[0].Blobs) != 2 {
			t.Errorf("while the next child's blob arrives: %+v", now)
		}
		finish()
		p := r.pushed("ann", "acme/app", "", r.image(arm))
		if p.ID != child.ID || p.State != Done || p.Sum.Uploaded != 2 {
			t.Errorf("after the second child: %+v", p)
		}
		p = r.pushed("ann", "acme/app", "v1", r.index(r.image(amd), r.image(arm)))
		if kinds := len(p.Blobs); p.ID != child.ID || kinds != 4 || p.Sum.Uploaded != 2 || p.Sum.Existed+p.Sum.Mounted != 0 {
			t.Errorf("the index: %d blobs, %+v", kinds, p.Sum)
		}
	})
}
