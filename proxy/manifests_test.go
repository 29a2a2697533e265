package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

const ociType = "Content-Type: " + oci.MediaTypeOCIManifest

func TestAPushedManifestIsUpstreamByteForByte(t *testing.T) {
	config, layer := []byte(`{}`), blobOf(100<<10)
	raw := image(config, layer)
	odd := []byte(" {\n\t\"annotations\": {\"<b>\": \"\\u00fc ü\"},\"schemaVersion\" :2} ")
	for _, test := range []struct {
		name, reference string
		raw             []byte
		contentType     string
		want            string // media type upstream
	}{
		{"by tag", "v1", raw, oci.MediaTypeOCIManifest, oci.MediaTypeOCIManifest},
		{"by digest", digest.FromBytes(raw).String(), raw, oci.MediaTypeOCIManifest, oci.MediaTypeOCIManifest},
		{"by sha512", digest.SHA512.FromBytes(raw).String(), raw, oci.MediaTypeOCIManifest, oci.MediaTypeOCIManifest},
		{"without a content type", "v1", raw, "", oci.MediaTypeOCIManifest},
		{"of a type with parameters", "v1", raw, oci.MediaTypeOCIManifest + "; charset=utf-8", oci.MediaTypeOCIManifest},
		{"of a type that nobody knows", "v1", odd, "application/vnd.unknown.thing+json", "application/vnd.unknown.thing+json"},
		{"of docker's type", "v1", odd, oci.MediaTypeDockerManifest, oci.MediaTypeDockerManifest},
		{"of exactly 4 MiB", "v1", append([]byte("{}"), bytes.Repeat([]byte(" "), oci.MaxManifest-2)...), oci.MediaTypeOCIManifest, oci.MediaTypeOCIManifest},
		{"of an artifact", "v1", odd, oci.MediaTypeOCIArtifact, oci.MediaTypeOCIArtifact},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.pushBlob(app, config)
			r.pushBlob(app, layer)
			d := digest.FromBytes(test.raw)
			if strings.HasPrefix(test.reference, "sha512") {
				d = digest.SHA512.FromBytes(test.raw)
			}
			got := r.want(201, "PUT", app+"/manifests/"+test.reference, test.raw, "Content-Type: "+test.contentType)
			r.hasHeaders(got, flags{"Location": app + "/manifests/" + d.String(), "Docker-Content-Digest": d.String(), "Content-Length": "0", "OCI-Subject": ""})
			stored, mediaType, ok := r.up.Manifest("acme/app", test.reference)
			if !ok || !bytes.Equal(stored, test.raw) || mediaType != test.want {
				t.Errorf("the upstream has %q as %s", stored, mediaType)
			}
			for _, method := range []string{"HEAD", "GET"} {
				back := r.want(200, method, app+"/manifests/"+test.reference, nil, "Accept: */*")
				r.hasHeaders(back, flags{"Content-Type": test.want, "Docker-Content-Digest": d.String(), "Content-Length": fmt.Sprint(len(test.raw)), "Content-Disposition": "attachment"})
				if method == "GET" && !bytes.Equal(back.body, test.raw) {
					t.Errorf("read back %q", back.body)
				}
			}
		})
	}
}

func TestManifestsThatAreRefusedNeverReachTheUpstream(t *testing.T) {
	raw := image([]byte("{}"), []byte("x"))
	for _, test := range []struct {
		name, reference string
		body            []byte
		contentType     string
		status          int
		code            string
	}{
		{"4 MiB and a byte", "v1", bytes.Repeat([]byte(" "), oci.MaxManifest+1), oci.MediaTypeOCIManifest, 413, "MANIFEST_INVALID"},
		{"no JSON", "v1", []byte("hello"), oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"nothing", "v1", nil, oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"two objects", "v1", []byte("{}{}"), oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"a key twice", "v1", []byte(`{"layers":[],"layers":[]}`), oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"a key in another case", "v1", []byte(`{"Layers":[]}`), oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"layers and manifests", "v1", []byte(`{"config":{"digest":"` + digest.FromString("").String() + `"},"manifests":[{"digest":"` + digest.FromString("").String() + `"}]}`), oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"deep nesting", "v1", bytes.Repeat([]byte("["), 1<<20), oci.MediaTypeOCIManifest, 400, "MANIFEST_INVALID"},
		{"another type than it says", "v1", raw, oci.MediaTypeOCIIndex, 400, "MANIFEST_INVALID"},
		{"a page", "v1", []byte("{}"), "text/html", 400, "MANIFEST_INVALID"},
		{"docker schema 1", "v1", []byte("{}"), "application/vnd.docker.distribution.manifest.v1+prettyjws", 400, "MANIFEST_INVALID"},
		{"another digest", digest.FromString("x").String(), raw, oci.MediaTypeOCIManifest, 400, "DIGEST_INVALID"},
		{"a digest that is none", "sha256:abc", raw, oci.MediaTypeOCIManifest, 400, "DIGEST_INVALID"},
		{"a tag that is none", "-v1", raw, oci.MediaTypeOCIManifest, 400, "TAG_INVALID"},
		{"a tag too long", strings.Repeat("a", 129), raw, oci.MediaTypeOCIManifest, 400, "TAG_INVALID"},
		{"a further tag that is none", digest.FromBytes(raw).String() + "?tag=-", raw, oci.MediaTypeOCIManifest, 400, "TAG_INVALID"},
		{"too many further tags", digest.FromBytes(raw).String() + "?" + strings.Repeat("tag=a&", 33), raw, oci.MediaTypeOCIManifest, 414, "TAG_INVALID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for _, whole := range []bool{true, false} {
				body := bytes.NewReader(test.body)
				got, err := r.try("PUT", app+"/manifests/"+test.reference, body, "Content-Type: "+test.contentType)
				if !whole {
					got, err = r.try("PUT", app+"/manifests/"+test.reference, stream(test.body), "Content-Type: "+test.contentType)
				}
				if err != nil || got.status != test.status {
					t.Fatalf("status %d, want %d, %v: %s", got.status, test.status, err, got.body)
				}
				if code, _ := r.code(got); code != test.code {
					t.Errorf("code %s, want %s", code, test.code)
				}
			}
			if seen := r.up.Requests(); len(seen) > 0 {
				t.Errorf("the upstream saw %q", seen)
			}
		})
	}
}

func TestAManifestThatNamesAnUnknownBlobIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pushBlob(app, []byte("{}"))
	missing := digest.FromString("never pushed")
	code, message := r.code(r.want(404, "PUT", app+"/manifests/v1", image([]byte("{}"), []byte("never pushed")), ociType))
	if code != "MANIFEST_BLOB_UNKNOWN" || !strings.Contains(message, missing.String()) {
		t.Errorf("%s %s", code, message)
	}
	if _, _, ok := r.up.Manifest("acme/app", "v1"); ok {
		t.Error("the upstream has the manifest")
	}
}

func TestWhatTheUpstreamSaysOfAManifestReachesTheClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.up.Header = http.Header{"Warning": {`299 - "this repository moves"`}}
	subject := digest.FromString("absent")
	raw := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[],"subject":{"mediaType":"a/b","digest":%q,"size":1}}`,
		oci.MediaTypeOCIManifest, r.pushBlob(app, []byte("{}")), subject))
	d := digest.FromBytes(raw)
	got := r.want(201, "PUT", app+"/manifests/"+d.String()+"?tag=a&tag=b", raw, ociType)
	r.hasHeaders(got, flags{"OCI-Subject": subject.String(), "Warning": `299 - "this repository moves"`})
	if tags := got.header.Values("OCI-Tag"); !slices.Equal(tags, []string{"a", "b"}) {
		t.Errorf("OCI-Tag %q", tags)
	}
	index := r.want(200, "GET", app+"/referrers/"+subject.String(), nil)
	r.hasHeaders(index, flags{"Content-Type": oci.MediaTypeOCIIndex})
	if !bytes.Contains(index.body, []byte(d)) {
		t.Errorf("referrers %s", index.body)
	}
}

func TestAnUpstreamWithoutReferrersIsLeftToTheClient(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.up.NoReferrers = true
	subject := digest.FromString("absent")
	raw := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"subject":{"mediaType":"a/b","digest":%q,"size":1}}`, oci.MediaTypeOCIManifest, subject))
	r.hasHeaders(r.want(201, "PUT", app+"/manifests/v1", raw, ociType), flags{"OCI-Subject": ""})
	r.want(404, "GET", app+"/referrers/"+subject.String(), nil)
}

func TestAFailedWriteSaysWhatHappenedAndWhatToDo(t *testing.T) {
	raw := []byte(`{"schemaVersion":2}`)
	for _, test := range []struct {
		name    string
		set     func(*upstreamtest.Registry)
		status  int
		code    string
		retry   string
		message []string
	}{
		{"a login is missing", func(u *upstreamtest.Registry) { u.Auth = &upstreamtest.Auth{Username: "u", Password: "p"} }, 403, "DENIED", "", []string{"registry.test/acme/app", "401", "a test's credential", "docker login registry.test"}},
		{"the account may not", func(u *upstreamtest.Registry) {
			u.Inject(upstreamtest.Fault{Method: "PUT", Status: 403, Code: "DENIED"})
		}, 403, "DENIED", "", []string{"403", "docker login"}},
		{"in plain text", func(u *upstreamtest.Registry) {
			u.Plain = true
			u.Inject(upstreamtest.Fault{Method: "PUT", Status: 403})
		}, 403, "DENIED", "", []string{"scripted fault"}},
		{"too many requests", func(u *upstreamtest.Registry) {
			u.Inject(upstreamtest.Fault{Method: "PUT", Status: 429, RetryAfter: "7", Times: -1})
		}, 429, "TOOMANYREQUESTS", "7", []string{"registry.test", "wait"}},
		{"a failure", func(u *upstreamtest.Registry) { u.Inject(upstreamtest.Fault{Method: "PUT", Status: 503, Times: -1}) }, 502, "UNAVAILABLE", "", []string{"registry.test", "503", "try again"}},
		{"a cut connection", func(u *upstreamtest.Registry) { u.Inject(upstreamtest.Fault{Reset: true, Times: -1}) }, 502, "UNAVAILABLE", "", []string{"registry.test", "try again"}},
		{"an immutable tag", func(u *upstreamtest.Registry) {
			u.Inject(upstreamtest.Fault{Method: "PUT", Status: 409, Code: "TAG_IMMUTABLE"})
		}, 409, "TAG_IMMUTABLE", "", []string{"registry.test"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			test.set(r.up)
			got := r.want(test.status, "PUT", app+"/manifests/v1", raw, ociType)
			code, message := r.code(got)
			if code != test.code || got.header.Get("Retry-After") != test.retry || got.header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s, Retry-After %q, want %s, %q", code, got.header.Get("Retry-After"), test.code, test.retry)
			}
			for _, words := range test.message {
				if !strings.Contains(message, words) {
					t.Errorf("%q lacks %q", message, words)
				}
			}
		})
	}
}

func TestALookAtAManifestIsNeverAnythingBut200Or404(t *testing.T) {
	for name, fault := range map[string]upstreamtest.Fault{
		"no such manifest": {Skip: 1}, "a login is missing": {Status: 401}, "forbidden": {Status: 403}, "busy": {Status: 429},
		"failing": {Status: 500}, "gone": {Reset: true}, "silent": {Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				r.attempts = 0
				fault.Times = -1
				r.up.Inject(fault)
				began := time.Now()
				r.want(404, "HEAD", app+"/manifests/v1", nil)
				if took := time.Since(began); took > 25*time.Second {
					t.Errorf("the answer took %v; some clients wait no longer than 30 s", took)
				}
			})
		})
	}
}

// The server watches the connection while a handler waits, and would take a
// deadline that was left there for the client's end.
func TestAManifestMayTakeLongerThanABodyMayPause(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.up.Inject(upstreamtest.Fault{Method: "PUT", Path: "/manifests/", Delay: 5 * bodyPause})
		r.want(201, "PUT", app+"/manifests/v1", []byte(`{"schemaVersion":2}`), ociType)
		// And the next request on the connection is not hurried either.
		time.Sleep(2 * bodyPause)
		r.want(200, "GET", app+"/manifests/v1", nil)
		time.Sleep(2 * readPause)
		r.begin(app)
	})
}

func TestS27ADeletedManifestIsGoneUntilItIsPushedAgain(t *testing.T) {
	for _, by := range []string{"tag", "digest"} {
		t.Run("by "+by, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.pushBlob(app, []byte("{}"))
			raw := image([]byte("{}"))
			reference := "v1"
			if by == "digest" {
				reference = digest.FromBytes(raw).String()
			}
			for range 2 {
				r.want(201, "PUT", app+"/manifests/"+reference, raw, ociType)
				r.want(202, "DELETE", app+"/manifests/"+reference, nil)
				r.want(404, "HEAD", app+"/manifests/"+reference, nil)
				if code, _ := r.code(r.want(404, "GET", app+"/manifests/"+reference, nil)); code != "MANIFEST_UNKNOWN" {
					t.Errorf("code %s", code)
				}
			}
		})
	}
}

func TestAnIndexDoesNotBringADeletedManifestBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	child := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(child)
	r.want(201, "PUT", app+"/manifests/"+d.String(), child, ociType)
	r.want(202, "DELETE", app+"/manifests/"+d.String(), nil)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, oci.MediaTypeOCIManifest, d, len(child))
	r.want(404, "PUT", app+"/manifests/v1", []byte(index), "Content-Type: "+oci.MediaTypeOCIIndex)
	if _, _, ok := r.up.Manifest("acme/app", d.String()); ok {
		t.Error("the deleted manifest is there again")
	}
}
