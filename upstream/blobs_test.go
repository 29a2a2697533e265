package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
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
	for name, test := range map[string]struct {
		fault upstreamtest.Fault
		asked int // for the mount
		plain int // requests for a session of its own
	}{
		"429 is waited out":        {upstreamtest.Fault{Status: 429, RetryAfter: "3"}, 2, 0},
		"429 for ever":             {upstreamtest.Fault{Status: 429, Times: 5}, 5, 1},
		"a connection that breaks": {upstreamtest.Fault{Reset: true}, 2, 0},
		"one that always breaks":   {upstreamtest.Fault{Reset: true, Times: 5}, 5, 1},
		"an hour of Retry-After":   {upstreamtest.Fault{Status: 429, RetryAfter: "3600"}, 1, 1},
		"a refusal that may pass":  {upstreamtest.Fault{Status: 503}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(test.fault)
				u, mounted, err := newClient(r).StartUpload(t.Context(), app, d, "acme/base")
				if err != nil || mounted || u == nil {
					t.Errorf("StartUpload = %v, %v, %v; want a session", u, mounted, err)
				}
				want := slices.Concat(slices.Repeat([]string{"POST …/blobs/uploads/?from&mount"}, test.asked), slices.Repeat([]string{"POST …/blobs/uploads/"}, test.plain))
				sawRequests(t, r, d, want...)
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
	r := &upstreamtest.Registry{}
	_, _, err := newClient(r).StartUpload(t.Context(), app, "", "acme/base")
	noError(t, err)
	sawRequests(t, r, "-", "POST …/blobs/uploads/")
}

func TestAMountThatCameByARedirectIsNone(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	c.HTTP.Transport = instead(r, func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Query().Has("mount"):
			http.Redirect(w, req, "/fine", http.StatusTemporaryRedirect)
		case req.URL.Path == "/fine":
			w.WriteHeader(http.StatusCreated)
		default:
			return false
		}
		return true
	})
	_, d := blobOf(10)
	u, mounted, err := c.StartUpload(t.Context(), app, d, "acme/base")
	if err != nil || mounted || u == nil {
		t.Errorf("StartUpload = %v, %v, %v; want a session", u, mounted, err)
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
		for what, err := range everything(t.Context(), c, oci.Repo{Host: "registry.test", Name: name}, "v1") {
			if !errors.Is(err, oci.ErrNameInvalid) {
				t.Errorf("%s of %q: %v, want ErrNameInvalid", what, name, err)
			}
		}
	}
	sawRequests(t, r, "-")
	for _, reference := range []string{"", "../x", "a/b", "sha256:short", "x?y"} {
		for what, err := range everything(t.Context(), c, app, reference) {
			if strings.HasSuffix(what, "manifest") && !errors.Is(err, oci.ErrTagInvalid) {
				t.Errorf("%s %q: %v, want ErrTagInvalid", what, reference, err)
			}
		}
	}
	if _, err := c.PutManifest(t.Context(), app, "v1", "x", []byte("{}"), []string{"fine", "no tag"}); !errors.Is(err, oci.ErrTagInvalid) {
		t.Errorf("a tag beside the reference: %v, want ErrTagInvalid", err)
	}
	for _, request := range r.Requests() {
		if strings.Contains(request, "/manifests/") {
			t.Errorf("%s was sent", request)
		}
	}
}

func TestWhatCannotBeReachedIsAnErrorThatSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := blobOf(10)
		r := &upstreamtest.Registry{}
		c := newClient(r)
		c.Attempts = 1
		u, _, err := c.StartUpload(t.Context(), app, d, "")
		noError(t, err)
		filled, _, err := c.StartUpload(t.Context(), app, "", "")
		noError(t, err)
		r.Inject(upstreamtest.Fault{Reset: true, Times: -1})
		done := everything(t.Context(), c, app, "v1")
		delete(done, "reopen an upload") // asks nobody
		done["ask for the root"] = c.Ping(t.Context())
		_, done["ask how far it is"] = u.Offset(t.Context())
		_, done["stream"] = filled.Stream(t.Context(), io.NopCloser(strings.NewReader("x")))
		done["finish"] = filled.Finish(t.Context(), d)
		done["send"] = u.Send(t.Context(), 10, opener(b))
		done["cancel"] = u.Cancel(t.Context())
		for what, err := range done {
			if !errors.Is(err, oci.ErrUpstream) || !Unreachable(err) || !strings.Contains(err.Error(), "registry.test could not be reached") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestASessionGoesWhereItsAnswersSay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		location string
		want     []string
		err      error
	}{
		"an answer without a Location leaves it where it is": {"", []string{post, patch1, put1}, nil},
		"one that names another path moves it":               {"/v2/acme/app/blobs/uploads/u2", []string{post, patch1, put2}, nil},
		"one that names another host ends it":                {"https://evil.test/v2/acme/app/blobs/uploads/u1", []string{post, patch1}, errLocation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &upstreamtest.Registry{Location: func(req *http.Request, path string) string {
				if req.Method == http.MethodPatch {
					return test.location
				}
				return path
			}}
			b, d := blobOf(100)
			c := newClient(r)
			u, _, err := c.StartUpload(t.Context(), app, "", "")
			noError(t, err)
			_, err = u.Stream(t.Context(), io.NopCloser(strings.NewReader(string(b))))
			if !errors.Is(err, test.err) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if err == nil {
				// The fake has no such session where it was moved.
				_ = u.Finish(t.Context(), d)
			}
			log := r.Log()
			for i, want := range test.want {
				if i >= len(log) || strings.ReplaceAll(log[i].String(), "/v2/acme/app", "…") != want {
					t.Errorf("requests %q, want %q first", r.Requests(), test.want)
				}
			}
			for _, q := range log {
				if q.Host != "registry.test" {
					t.Errorf("%s was asked", q.Host)
				}
			}
		})
	}
}

func TestHowFarAnUploadIsHasToBeSaid(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	c.HTTP.Transport = instead(r, func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodGet {
			w.WriteHeader(http.StatusNoContent)
		}
		return req.Method == http.MethodGet
	})
	u, _, err := c.StartUpload(t.Context(), app, "", "")
	noError(t, err)
	if at, err := u.Offset(t.Context()); !errors.Is(err, errNoRange) || !strings.Contains(err.Error(), "how far the upload of a blob to registry.test/acme/app is") {
		t.Errorf("Offset = %d, %v; want an error that says what is missing", at, err)
	}
	noError(t, u.Cancel(t.Context()))
	r.Reset()
	if at, err := u.Offset(t.Context()); !errors.Is(err, oci.ErrBlobUploadUnknown) {
		t.Errorf("Offset of no session = %d, %v; want ErrBlobUploadUnknown", at, err)
	}
	if u.Token() != "" {
		t.Errorf("no session has the token %q", u.Token())
	}
	sawRequests(t, r, "-")
}

func TestWhatIsAskedOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		do   func(*Client, *Upload) error
		once bool
	}{
		"whether it is alive":    {func(c *Client, _ *Upload) error { return c.Alive(context.Background()) }, true},
		"whether it answers":     {func(c *Client, _ *Upload) error { return c.Ping(context.Background()) }, false},
		"how far an upload is":   {func(_ *Client, u *Upload) error { return second(u.Offset(context.Background())) }, true},
		"the end of an upload":   {func(_ *Client, u *Upload) error { return u.Cancel(context.Background()) }, true},
		"the close of an upload": {func(_ *Client, u *Upload) error { return u.Finish(context.Background(), digest.FromString("")) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				c := newClient(r)
				u, _, err := c.StartUpload(t.Context(), app, "", "")
				noError(t, err)
				r.Reset()
				r.Inject(upstreamtest.Fault{Status: 503})
				if err := test.do(c, u); errors.Is(err, oci.ErrUpstream) != test.once || (len(r.Requests()) == 1) != test.once {
					t.Errorf("%v after %q", err, r.Requests())
				}
			})
		})
	}
}
