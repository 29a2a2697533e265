package forward

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func aead(t *testing.T, key string) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher([]byte(strings.Repeat(key, 32)))
	noError(t, err)
	gcm, err := cipher.NewGCM(block)
	noError(t, err)
	return gcm
}

// breakOff pushes a blob whose upload breaks in the middle.
func breakOff(t *testing.T, seal cipher.AEAD) (r *rig, m oci.Manifest, size int64) {
	t.Helper()
	r = memoryRig(t, &upstreamtest.Registry{})
	r.Seal = seal
	b := r.blob("large", lastingSize+1)
	r.give("alice", b)
	r.reg.Inject(upstreamtest.Fault{Method: "PUT", Path: "/uploads/", Reset: true, ResetAt: lastingSize / 2})
	m = r.image(b)
	if _, err := r.push("alice", "app", "v1", m); !errors.Is(err, oci.ErrUpstream) {
		t.Fatalf("the first attempt: %v", err)
	}
	return r, m, int64(len(b))
}

func TestTheNextAttemptGoesOnWhereAnUploadBrokeOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, nil)
		r.pushed("alice", "app", "v1", m)
		if got := r.reg.Bytes(); got != size {
			t.Errorf("%d bytes were sent of %d", got, size)
		}
	})
}

func TestAnUploadGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		after    string // key of the installation after the restart
		fail     bool   // the upstream has lost the session
		sentOnce bool
	}{
		"with what was stored":             {"k", false, true},
		"with another secret, from anew":   {"x", false, false},
		"with a session that is not there": {"k", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, m, size := breakOff(t, aead(t, "k"))
				if c.fail {
					r.reg.Inject(upstreamtest.Fault{Method: "GET", Path: "/uploads/", Status: 404, Code: "BLOB_UPLOAD_UNKNOWN"})
				}
				for entry, err := range r.meta.KV.Scan(t.Context(), "session/") {
					noError(t, err)
					if strings.Contains(string(entry.Value), "/uploads/") {
						t.Error("the location is stored in clear text")
					}
				}
				noError(t, r.Close(t.Context()))
				r.Forwarder = New(r.cache, r.meta)
				r.Seal = aead(t, c.after)
				r.pushed("alice", "app", "v1", m)
				if got := r.reg.Bytes(); (got == size) != c.sentOnce || got > size*3/2+1 {
					t.Errorf("%d bytes were sent of %d", got, size)
				}
				for range r.meta.KV.Scan(t.Context(), "session/") {
					t.Error("what is done is still remembered")
				}
			})
		})
	}
}

func TestABlobGoesOnWhereItsStreamBrokeOff(t *testing.T) {
	t.Parallel()
	refused := func(q *http.Request) bool { return q.Method == http.MethodPut && q.ContentLength == 0 }
	for when, c := range map[string]struct {
		reg    *upstreamtest.Registry
		faults []upstreamtest.Fault
		early  bool // it breaks off before the blob is whole
		want   []string
	}{
		"before the blob was whole": {&upstreamtest.Registry{}, []upstreamtest.Fault{{Method: "PATCH", Reset: true, ResetAt: 2 * mib}}, true,
			[]string{"POST app", "PATCH app", "HEAD app layer", "GET app", "PATCH app", "PUT app layer"}},
		"when the blob was whole": {&upstreamtest.Registry{}, []upstreamtest.Fault{{Method: "PATCH", Reset: true, ResetAt: 4 * mib}}, false,
			[]string{"POST app", "PATCH app", "HEAD app layer", "GET app", "PATCH app", "PUT app layer"}},
		"at its end": {&upstreamtest.Registry{}, []upstreamtest.Fault{{Method: "PUT", Reset: true}}, false,
			[]string{"POST app", "PATCH app", "PUT app layer", "GET app", "PUT app layer"}},
		"and the upstream refuses to end it": {&upstreamtest.Registry{Fail: failing(refused, 400)}, nil, false,
			[]string{"POST app", "PATCH app", "PUT app layer", "POST app", "PUT app layer", "DELETE app upload"}},
		"and the upstream does not know how far it was": {&upstreamtest.Registry{}, []upstreamtest.Fault{
			{Method: "PATCH", Reset: true, ResetAt: 4 * mib}, {Method: "GET", Path: "/uploads/", Status: 404, Code: "BLOB_UPLOAD_UNKNOWN"}}, false,
			[]string{"POST app", "PATCH app", "HEAD app layer", "GET app", "POST app", "PUT app layer"}},
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := memoryRig(t, c.reg)
				layer := r.noise("layer", 5*mib+77)
				r.reg.Inject(c.faults...)
				a := r.arriving("ann", layer)
				a.send(3 * mib)
				r.Streaming(r.target("ann"), repo("app"), a.u.ID())
				if c.early {
					synctest.Wait()
				}
				a.end("app")
				time.Sleep(time.Minute)
				resumes := slices.Contains(c.want, "GET app") && len(c.faults) == 1
				if got := r.reg.Bytes(); resumes && got != int64(len(layer)) {
					t.Errorf("%d bytes were sent of %d", got, len(layer))
				}
				if got := r.requests(); !sameSet(got, c.want) {
					t.Errorf("the upstream saw %q, want %q", got, c.want)
				}
				r.pushed("ann", "app", "v1", r.image(layer))
			})
		})
	}
}

func TestWithAnotherCredentialAStreamIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	for when, faults := range map[string][]upstreamtest.Fault{
		"that broke off":         {{Method: "PATCH", Reset: true, ResetAt: 2 * mib}},
		"that is still going on": nil,
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := memoryRig(t, &upstreamtest.Registry{})
				r.Seal = aead(t, "k")
				r.reg.Inject(faults...)
				layer := r.noise("layer", lastingSize)
				a := r.arriving("ann", layer)
				a.send(3 * mib)
				r.Streaming(r.target("ann"), repo("app"), a.u.ID())
				synctest.Wait()
				a.send(len(layer))
				d := digest.FromBytes(layer)
				noError(t, a.u.Commit(t.Context(), d))
				noError(t, r.meta.Grant(t.Context(), "ann", d))
				changed := r.target("ann")
				changed.Owner = func(context.Context, oci.Repo) (metadata.Owner, error) { return ownerOf("another account"), nil }
				r.Start(changed, repo("app"), d, "", a.u.ID())
				time.Sleep(time.Second)
				got := r.requests()
				if slices.Contains(got, "GET app") || !slices.Contains(got, "DELETE app upload") || !slices.Contains(got, "PUT app layer") {
					t.Errorf("the upstream saw %q", got)
				}
			})
		})
	}
}

func TestAStreamThatBrokeOffAndIsNeverEndedIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		r.reg.Inject(upstreamtest.Fault{Method: "PATCH", Reset: true, ResetAt: 2 * mib})
		a := r.arriving("ann", r.noise("layer", 5*mib))
		a.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), a.u.ID())
		synctest.Wait()
		noError(t, a.u.Cancel(t.Context()))
		r.saw("POST app", "PATCH app")
		time.Sleep(streamKept + time.Minute)
		next := r.arriving("ann", r.noise("other", 5*mib))
		next.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), next.u.ID())
		next.end("app")
		r.saw("DELETE app upload", "POST app", "PATCH app", "PUT app other")
	})
}

// stalling lets n bytes of a PATCH through, and the rest never.
type stalling struct {
	http.RoundTripper
	n int64
}

func (s stalling) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPatch {
		req.Body = io.NopCloser(io.MultiReader(io.LimitReader(req.Body, s.n), untilDone{req.Context()}))
	}
	return s.RoundTripper.RoundTrip(req)
}

type untilDone struct{ context.Context }

func (u untilDone) Read([]byte) (int, error) {
	<-u.Done()
	return 0, u.Err()
}

func TestAStreamGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		r.Seal = aead(t, "k")
		base := r.base
		r.base = stalling{base, 10 * mib}
		layer := r.noise("layer", lastingSize+1)
		a := r.arriving("ann", layer)
		a.send(3 * mib)
		r.Streaming(r.target("ann"), repo("app"), a.u.ID())
		a.end("app")
		stopped, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Close(stopped); err == nil {
			t.Fatal("nothing was on its way")
		}
		synctest.Wait() // the upstream knows too that the connection is gone
		r.Forwarder, r.base = New(r.cache, r.meta), base
		r.Seal = aead(t, "k")
		r.pushed("ann", "app", "v1", r.image(layer))
		if got := r.reg.Bytes(); got != int64(len(layer)) {
			t.Errorf("%d bytes were sent of %d", got, len(layer))
		}
		for range r.meta.KV.Scan(t.Context(), "session/") {
			t.Error("what is done is still remembered")
		}
	})
}

func TestAnUploadThatBrokeOffOutlivesAnUpstreamThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, aead(t, "k"))
		for range 3 {
			r.reg.Inject(upstreamtest.Fault{Method: "GET", Path: "/uploads/", Reset: true})
			if _, err := r.push("alice", "app", "v1", m); !errors.Is(err, oci.ErrUpstream) {
				t.Fatalf("an attempt while the upstream is away: %v", err)
			}
		}
		r.pushed("alice", "app", "v1", m)
		if got := r.reg.Bytes(); got != size {
			t.Errorf("%d bytes were sent of %d", got, size)
		}
	})
}

func TestNobodyGoesOnWithAnothersUpload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, aead(t, "k"))
		r.give("bob", r.blob("large", lastingSize+1))
		r.pushed("bob", "app", "v1", m)
		if got := r.reg.Bytes(); got <= size {
			t.Errorf("%d bytes were sent of %d: bob went on with alice's upload", got, size)
		}
	})
}

func TestSessionsAreForgottenInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, aead(t, "k"))
		time.Sleep(keptFor + time.Minute)
		r.pushed("alice", "app", "v1", m)
		if got := r.reg.Bytes(); got <= size {
			t.Errorf("%d bytes were sent of %d", got, size)
		}
		_, ok, err := r.meta.Session(context.Background(), ownerOf("alice"), repo("app"), m.Blobs[0].Digest)
		if ok || err != nil {
			t.Errorf("it is still remembered: %v, %v", metadata.Session{}, err)
		}
	})
}
