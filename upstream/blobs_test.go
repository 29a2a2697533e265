package upstream

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestHeadBlobTellsWhatIsThere(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(1000)
	_, missing := blobOf(10)
	r.AddBlob("acme/app", b)
	c := newClient(r)
	size, found, err := c.HeadBlob(t.Context(), app, d)
	if err != nil || !found || size != 1000 {
		t.Errorf("HeadBlob = %d, %v, %v; want 1000, true", size, found, err)
	}
	if _, found, err := c.HeadBlob(t.Context(), app, missing); err != nil || found {
		t.Errorf("HeadBlob of a missing blob = %v, %v; want not found", found, err)
	}
	r.Digest = missing.String()
	if _, found, err := c.HeadBlob(t.Context(), app, d); err != nil || found {
		t.Errorf("HeadBlob of an answer with another digest = %v, %v; want not found", found, err)
	}
	sawRequests(t, r, d, "HEAD …/blobs/D", "HEAD …/blobs/"+missing.String(), "HEAD …/blobs/D")
}

func TestOneUploadIsTwoRequests(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 100_000} {
		r := &upstreamtest.Registry{}
		b, d := blobOf(size)
		noError(t, push(t, newClient(r), b, d))
		stored(t, r, b, d)
		sawRequests(t, r, d, "POST …/blobs/uploads/", "PUT …/blobs/uploads/u1?digest")
		put := r.Log()[1]
		if got := put.Header.Get("Content-Length"); size > 0 && got != "" {
			t.Errorf("Content-Length went as a header: %s", got)
		}
	}
}

func TestUploadSaysItsLengthOnTheWire(t *testing.T) {
	t.Parallel()
	var lengths []int64
	r := &upstreamtest.Registry{}
	r.Fail = func(req *http.Request) int {
		lengths = append(lengths, req.ContentLength)
		return 0
	}
	b, d := blobOf(5000)
	noError(t, push(t, newClient(r), b, d))
	if len(lengths) != 2 || lengths[1] != 5000 {
		t.Errorf("lengths = %v, want the PUT with 5000", lengths)
	}
}

func TestSHA512UploadsSayTheirAlgorithm(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, _ := blobOf(100)
	d := digest.SHA512.FromBytes(b)
	noError(t, push(t, newClient(r), b, d))
	stored(t, r, b, d)
	sawRequests(t, r, d, "POST …/blobs/uploads/?digest-algorithm", "PUT …/blobs/uploads/u1?digest")
}

func TestMount(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	mount, plain, put := "POST …/blobs/uploads/?from&mount", "POST …/blobs/uploads/", "PUT …/blobs/uploads/u1?digest"
	tests := map[string]struct {
		prepare func(*upstreamtest.Registry)
		mounted bool
		want    []string
	}{
		"201 is the blob, in one request":        {func(r *upstreamtest.Registry) { r.AddBlob("acme/base", b) }, true, []string{mount}},
		"202 is a session, and that one is used": {func(*upstreamtest.Registry) {}, false, []string{mount, put}},
		"201 that names another digest is none": {func(r *upstreamtest.Registry) { r.MountAnswer, r.MountDigest = 201, digest.FromString("x").String() },
			false, []string{mount, plain, put}},
	}
	for _, status := range []int{400, 401, 403, 404, 405, 409, 415, 500, 501, 502, 503, 504, 302} {
		tests[strconv.Itoa(status)+" is no mount and no error"] = struct {
			prepare func(*upstreamtest.Registry)
			mounted bool
			want    []string
		}{func(r *upstreamtest.Registry) { r.MountAnswer = status }, false, []string{mount, plain, put}}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &upstreamtest.Registry{}
			test.prepare(r)
			u, mounted, err := newClient(r).StartUpload(t.Context(), app, d, "acme/base")
			noError(t, err)
			if mounted != test.mounted {
				t.Fatalf("mounted = %v, want %v", mounted, test.mounted)
			}
			if !mounted {
				noError(t, u.Send(t.Context(), int64(len(b)), opener(b)))
			}
			stored(t, r, b, d)
			sawRequests(t, r, d, test.want...)
		})
	}
}

func TestMountIsNoErrorWhateverBreaks(t *testing.T) {
	t.Parallel()
	_, d := blobOf(1000)
	for name, fault := range map[string]upstreamtest.Fault{
		"429 is waited out":        {Status: 429, RetryAfter: "3"},
		"429 for ever":             {Status: 429, Times: 5},
		"a connection that breaks": {Reset: true},
		"one that always breaks":   {Reset: true, Times: 5},
		"an hour of Retry-After":   {Status: 429, RetryAfter: "3600"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(fault)
				u, mounted, err := newClient(r).StartUpload(t.Context(), app, d, "acme/base")
				if err != nil || mounted || u == nil {
					t.Errorf("StartUpload = %v, %v, %v; want a session", u, mounted, err)
				}
			})
		})
	}
}

func TestMountOpensAPlainUploadWhenItsLocationIsUnusable(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	r.Location = func(req *http.Request, path string) string {
		if req.URL.Query().Has("mount") {
			return "https://elsewhere.test" + path
		}
		return path
	}
	b, d := blobOf(10)
	u, _, err := newClient(r).StartUpload(t.Context(), app, d, "acme/base")
	noError(t, err)
	noError(t, u.Send(t.Context(), 10, opener(b)))
	sawRequests(t, r, d, "POST …/blobs/uploads/?from&mount", "POST …/blobs/uploads/", "PUT …/blobs/uploads/u2?digest")
}

func TestMountIsNotAskedForWithoutASource(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"", "acme/app", "Not A Name", "../etc"} {
		r := &upstreamtest.Registry{}
		_, d := blobOf(10)
		_, _, err := newClient(r).StartUpload(t.Context(), app, d, from)
		noError(t, err)
		sawRequests(t, r, d, "POST …/blobs/uploads/")
	}
}

func TestCancelForgivesUpstreamsThatCannot(t *testing.T) {
	t.Parallel()
	for _, r := range []*upstreamtest.Registry{{}, {NoCancel: true}} {
		u, _, err := newClient(r).StartUpload(t.Context(), app, "", "")
		noError(t, err)
		noError(t, u.Cancel(t.Context()))
		noError(t, u.Cancel(t.Context()))
		sawRequests(t, r, "-", "POST …/blobs/uploads/", "DELETE …/blobs/uploads/u1")
	}
	r := &upstreamtest.Registry{}
	c := newClient(r)
	c.Host = "ghcr.io"
	noError(t, c.CanPush(t.Context(), app))
	sawRequests(t, r, "-", "POST …/blobs/uploads/")
}

func TestStreamAndFinish(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{State: true}
	b, d := blobOf(200_000)
	u, _, err := newClient(r).StartUpload(t.Context(), app, "", "")
	noError(t, err)
	for _, part := range [][]byte{b[:150_000], b[150_000:]} {
		n, err := u.Stream(t.Context(), io.NopCloser(strings.NewReader(string(part))))
		if err != nil || n != int64(len(part)) {
			t.Fatalf("Stream = %d, %v; want %d", n, err, len(part))
		}
	}
	if at, err := u.Offset(t.Context()); err != nil || at != 200_000 {
		t.Errorf("Offset = %d, %v; want 200000", at, err)
	}
	noError(t, u.Finish(t.Context(), d))
	stored(t, r, b, d)
	sawRequests(t, r, d, "POST …/blobs/uploads/", "PATCH …/blobs/uploads/u1?_state", "PATCH …/blobs/uploads/u1?_state",
		"GET …/blobs/uploads/u1?_state", "PUT …/blobs/uploads/u1?_state&digest")
}

func TestFinishSurvivesALostAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		b, d := blobOf(1000)
		u, _, err := newClient(r).StartUpload(t.Context(), app, "", "")
		noError(t, err)
		_, err = u.Stream(t.Context(), io.NopCloser(strings.NewReader(string(b))))
		noError(t, err)
		r.Inject(upstreamtest.Fault{Method: "PUT", Lost: true})
		noError(t, u.Finish(t.Context(), d))
		stored(t, r, b, d)
	})
}

func TestDeleteBlob(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(10)
	r.AddBlob("acme/app", b)
	c := newClient(r)
	noError(t, c.DeleteBlob(t.Context(), app, d))
	if err := c.DeleteBlob(t.Context(), app, d); !errors.Is(err, oci.ErrBlobUnknown) {
		t.Errorf("deleting twice: %v, want ErrBlobUnknown", err)
	}
	r.NoDelete = true
	if err := c.DeleteBlob(t.Context(), app, d); !errors.Is(err, oci.ErrUnsupported) {
		t.Errorf("an upstream without deletes: %v, want ErrUnsupported", err)
	}
}

func TestNamesThatAreNoneAreNotSent(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	for _, name := range []string{"", "UPPER", "a/../b", "a//b", "a?x=1", "a b"} {
		repo := oci.Repo{Host: "registry.test", Name: name}
		if _, _, err := c.HeadBlob(t.Context(), repo, "sha256:x"); !errors.Is(err, oci.ErrNameInvalid) {
			t.Errorf("name %q: %v, want ErrNameInvalid", name, err)
		}
	}
	for _, reference := range []string{"", "../x", "a/b", "sha256:short", "x?y"} {
		if _, _, err := c.GetManifest(t.Context(), app, reference, nil); !errors.Is(err, oci.ErrTagInvalid) {
			t.Errorf("reference %q: %v, want ErrTagInvalid", reference, err)
		}
	}
	sawRequests(t, r, "-")
}
