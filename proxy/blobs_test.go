package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/upstream/upstreamtest"
)

func TestALookAtABlobIsNeverAnythingBut200Or404(t *testing.T) {
	blob := blobOf(1000)
	d := digest.FromBytes(blob)
	for _, test := range []struct {
		name string
		path string // "": of the application
		up   func(*rig)
		want int
	}{
		{"the upstream has it", "", func(r *rig) { r.up.AddBlob("acme/app", blob) }, 200},
		{"the upstream does not have it", "", func(*rig) {}, 404},
		{"another repository has it", "", func(r *rig) { r.up.AddBlob("acme/other", blob) }, 404},
		{"the upstream asks for a login", "", func(r *rig) { r.up.Auth = &upstreamtest.Auth{Username: "u", Password: "p"} }, 404},
		{"the upstream forbids", "", func(r *rig) { r.up.Inject(upstreamtest.Fault{Status: 403}) }, 404},
		{"the upstream has no HEAD", "", func(r *rig) { r.up.Inject(upstreamtest.Fault{Status: 405}) }, 404},
		{"the upstream is busy", "", func(r *rig) { r.up.Inject(upstreamtest.Fault{Status: 429, Times: -1}) }, 404},
		{"the upstream fails", "", func(r *rig) { r.up.Inject(upstreamtest.Fault{Status: 500, Times: -1}) }, 404},
		{"the upstream is gone", "", func(r *rig) { r.up.Inject(upstreamtest.Fault{Reset: true, Times: -1}) }, 404},
		{"the upstream does not answer", "", func(r *rig) { r.up.Inject(upstreamtest.Fault{Delay: time.Hour, Times: -1}) }, 404},
		{"the upstream names another blob", "", func(r *rig) { r.up.AddBlob("acme/app", blob); r.up.Digest = digest.FromString("x").String() }, 404},
		{"the upstream does not say the length", "", func(r *rig) {
			r.hook = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(200); return true }
		}, 404},
		{"the registry is unknown", "/v2/evil.test/acme/app/blobs/" + d.String(), func(*rig) {}, 404},
		{"the upstream's target cannot be made", "", func(r *rig) { r.door.Target = nil }, 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				r.attempts = 0 // as in production
				test.up(r)
				path := test.path
				if path == "" {
					path = app + "/blobs/" + d.String()
				}
				if r.door.Target == nil {
					r.door.Target = failingTarget
				}
				began := time.Now()
				got := r.want(test.want, "HEAD", path, nil)
				if took := time.Since(began); took > 30*time.Second-time.Second {
					t.Errorf("the answer took %v; some clients wait no longer than 30 s", took)
				}
				if got.status == 200 {
					r.hasHeaders(got, flags{"Content-Length": "1000", "Docker-Content-Digest": d.String(), "Accept-Ranges": "bytes"})
				}
			})
		})
	}
}

func TestABlobThatOnlyTheCacheHasIsForwardedWhenItIsLookedAt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		d := r.pushBlob("/v2/registry.test/acme/first", []byte("hello"))
		synctest.Wait()
		r.want(200, "HEAD", "/v2/registry.test/acme/second/blobs/"+d.String(), nil)
		synctest.Wait()
		if _, ok := r.up.Blob("acme/second", d); !ok {
			t.Errorf("the upstream saw only %q", r.up.Requests())
		}
	})
}

func TestMountsAreNeverRefused(t *testing.T) {
	blob := []byte("mounted")
	d := digest.FromBytes(blob)
	for _, test := range []struct {
		name, query string
		set         func(*rig)
		want        int
		from        string // what the upstream is asked, "" for nothing
	}{
		{"of a blob that is here, without a source", "", func(r *rig) { r.pushBlob("/v2/registry.test/acme/base", blob) }, 201, ""},
		{"of a blob that the upstream has", "&from=registry.test/acme/base", func(r *rig) { r.up.AddBlob("acme/base", blob) }, 201, "acme/base"},
		{"of a blob that the upstream has under an origin", "&from=registry.test/acme/base&origin=registry.test", func(r *rig) { r.up.AddBlob("acme/base", blob) }, 201, "acme/base"},
		{"from another upstream", "&from=corp/base", func(r *rig) { r.up.AddBlob("base", blob); r.up.AddBlob("team/base", blob) }, 202, ""},
		{"from an unknown registry", "&from=evil.test/base", func(*rig) {}, 202, ""},
		{"from a name that no route takes", "&from=acme/base", func(r *rig) { r.up.AddBlob("acme/base", blob) }, 202, ""},
		{"from no name at all", "&from=../etc", func(*rig) {}, 202, ""},
		{"of a blob that nobody has", "&from=registry.test/acme/base", func(*rig) {}, 202, "acme/base"},
		{"when the upstream asks for a login", "&from=registry.test/acme/base", func(r *rig) { r.up.MountAnswer = 401 }, 202, "acme/base"},
		{"when the upstream forbids", "&from=registry.test/acme/base", func(r *rig) { r.up.MountAnswer = 403 }, 202, "acme/base"},
		{"when the upstream knows no mounts", "&from=registry.test/acme/base", func(r *rig) { r.up.MountAnswer = 405 }, 202, "acme/base"},
		{"when the upstream mounts another blob", "&from=registry.test/acme/base", func(r *rig) { r.up.MountAnswer = 201; r.up.MountDigest = digest.FromString("x").String() }, 202, "acme/base"},
		{"when every request fails", "&from=registry.test/acme/base", func(r *rig) { r.up.Inject(upstreamtest.Fault{Status: 500, Times: -1}) }, 202, "acme/base"},
		{"when the upstream does not answer", "&from=registry.test/acme/base", func(r *rig) { r.up.Inject(upstreamtest.Fault{Delay: time.Hour, Times: -1}) }, 202, "acme/base"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				r.attempts = 0
				test.set(r)
				synctest.Wait()
				r.up.Reset()
				began := time.Now()
				got := r.want(test.want, "POST", app+"/blobs/uploads/?mount="+d.String()+test.query, nil)
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("the answer took %v", took)
				}
				var asked []string
				for _, q := range r.up.Log() {
					if q.Query.Has("mount") && !slices.Contains(asked, q.Query.Get("from")) {
						asked = append(asked, q.Query.Get("from"))
					}
				}
				if test.want == 201 && test.from == "" {
					asked = nil // mounting in the background is the forwarder's choice
				}
				if strings.Join(asked, " ") != test.from {
					t.Errorf("the upstream was asked for %q, want %q", asked, test.from)
				}
				location := got.header.Get("Location")
				if test.want == 201 {
					r.hasHeaders(got, flags{"Location": app + "/blobs/" + d.String(), "Docker-Content-Digest": d.String()})
					r.want(200, "HEAD", location, nil)
					return
				}
				r.want(201, "PUT", location+"?digest="+d.String(), blob)
			})
		})
	}
}

func TestPartsOfBlobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	blob := blobOf(3<<20 + 9)
	here := r.pushBlob(app, blob)
	there := r.up.AddBlob("acme/pulled", blob)
	for _, test := range []struct {
		name, header string
		status       int
		first, last  int
	}{
		{"from the start", "bytes=0-9", 206, 0, 9},
		{"across chunks", "bytes=1048570-2097160", 206, 1048570, 2097160},
		{"to the end", "bytes=3145000-", 206, 3145000, len(blob) - 1},
		{"the last bytes", "bytes=-5", 206, len(blob) - 5, len(blob) - 1},
		{"further than the end", "bytes=3145000-99999999", 206, 3145000, len(blob) - 1},
		{"behind the end", "bytes=99999999-", 416, 0, 0},
		{"nonsense", "bytes=x", 416, 0, 0},
	} {
		for _, path := range []string{app + "/blobs/" + here.String(), "/v2/registry.test/acme/pulled/blobs/" + there.String()} {
			got := r.want(test.status, "GET", path, nil, "Range: "+test.header)
			if test.status == 416 {
				if code, message := r.code(got); code != "UNSUPPORTED" || !strings.Contains(message, fmt.Sprint(len(blob))) {
					t.Errorf("%s: %s %s", test.name, code, message)
				}
				continue
			}
			if want := fmt.Sprintf("bytes %d-%d/%d", test.first, test.last, len(blob)); got.header.Get("Content-Range") != want || !bytes.Equal(got.body, blob[test.first:test.last+1]) {
				t.Errorf("%s: Content-Range %q, %d bytes, want %s", test.name, got.header.Get("Content-Range"), len(got.body), want)
			}
		}
	}
}

// The bytes are in the cache, but brought by somebody else (trust S19).
func TestABlobWithoutAGrantIsAsUnknownAsAnyOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	theirs, nobodys := digest.FromString("theirs"), digest.FromString("nobody's")
	u, err := r.door.Cache.Begin(t.Context(), digest.SHA256, "somebody else")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write([]byte("theirs")); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	for _, ask := range []struct {
		method, path string
		status       int
	}{
		{"HEAD", "/blobs/%s", 404},
		{"GET", "/blobs/%s", 404},
		{"POST", "/blobs/uploads/?mount=%s", 202},
		{"PUT", "/blobs/uploads/0123456789abcdef0123456789abcdef?digest=%s", 404},
		{"DELETE", "/blobs/%s", 404},
	} {
		var said []string
		for _, d := range []digest.Digest{theirs, nobodys} {
			got := r.want(ask.status, ask.method, app+fmt.Sprintf(ask.path, d), nil)
			said = append(said, strings.ReplaceAll(string(got.body), d.String(), ""))
		}
		if said[0] != said[1] {
			t.Errorf("%s %s: %s is told from %s", ask.method, ask.path, said[0], said[1])
		}
	}
	r.want(404, "PUT", app+"/manifests/v1", image([]byte("theirs")), ociType)
	if _, ok := r.up.Blob("acme/app", theirs); ok {
		t.Error("the upstream got it")
	}
}

func TestS27ADeletedBlobIsGoneUntilItIsPushedAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.up.MountAnswer = 202
		blob := blobOf(2 << 20)
		path := app + "/blobs/" + digest.FromBytes(blob).String()
		r.want(202, "DELETE", "/v2/registry.test/acme/app/blobs/"+r.pushBlob(app, blob).String(), nil)
		synctest.Wait()
		r.want(404, "HEAD", path, nil)
		r.want(404, "GET", path, nil)
		r.want(404, "DELETE", path, nil)
		// Another repository brings it back there alone (trust S27).
		r.pushBlob("/v2/registry.test/acme/other", blob)
		synctest.Wait()
		r.want(404, "HEAD", path, nil)
		// docker looks at once whether what it pushed is there.
		r.up.Inject(upstreamtest.Fault{Method: "PUT", Delay: time.Minute})
		r.pushBlob(app, blob)
		r.want(200, "HEAD", path, nil)
		time.Sleep(2 * time.Minute)
		if _, ok := r.up.Blob("acme/app", digest.FromBytes(blob)); !ok {
			t.Error("the upstream does not have the blob that was pushed again")
		}
	})
}

func TestADeletionWaitsForTheUploadThatItWouldOtherwiseLoseTo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.up.Inject(upstreamtest.Fault{Method: "PUT", Delay: 20 * time.Second})
		d := r.pushBlob(app, []byte("x"))
		r.want(202, "DELETE", app+"/blobs/"+d.String(), nil)
		time.Sleep(time.Minute)
		if _, ok := r.up.Blob("acme/app", d); ok {
			t.Errorf("the blob came back: %q", r.up.Requests())
		}
	})
}

func TestABlobThatTheUpstreamLostIsGoneAfterItsDeletion(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		d := r.pushBlob(app, []byte("x"))
		synctest.Wait()
		r.up.Forget(d)
		r.want(404, "DELETE", app+"/blobs/"+d.String(), nil)
		r.want(404, "HEAD", app+"/blobs/"+d.String(), nil)
	})
}

func TestADeletionIsTheUpstreamsToAllow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		d := r.pushBlob(app, []byte("kept"))
		synctest.Wait()
		r.up.NoDelete = true
		if code, _ := r.code(r.want(405, "DELETE", app+"/blobs/"+d.String(), nil)); code != "UNSUPPORTED" {
			t.Errorf("code %s", code)
		}
		r.want(200, "HEAD", app+"/blobs/"+d.String(), nil)
	})
}
