package upstream

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

const (
	post   = "POST …/blobs/uploads/"
	put1   = "PUT …/blobs/uploads/u1?digest"
	put2   = "PUT …/blobs/uploads/u2?digest"
	patch1 = "PATCH …/blobs/uploads/u1"
	patch2 = "PATCH …/blobs/uploads/u2"
	get1   = "GET …/blobs/uploads/u1"
	head   = "HEAD …/blobs/D"
	end1   = "DELETE …/blobs/uploads/u1"
)

func TestFaultsThatPassAreRecoveredFrom(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		registry *upstreamtest.Registry
		fault    upstreamtest.Fault
		want     []string
	}{
		"a 503 to the PUT is sent again in the same session": {fault: upstreamtest.Fault{Method: "PUT", Status: 503}, want: []string{post, put1, get1, put1}},
		"so is a 429": {fault: upstreamtest.Fault{Method: "PUT", Status: 429}, want: []string{post, put1, get1, put1}},
		"a connection that is cut before the body":                {fault: upstreamtest.Fault{Method: "PUT", Reset: true}, want: []string{post, put1, get1, put1}},
		"one cut in the body goes on at the upstream's offset":    {fault: upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 60_000}, want: []string{post, put1, get1, patch1, put1}},
		"a PUT that did its work but whose answer was lost":       {fault: upstreamtest.Fault{Method: "PUT", Lost: true}, want: []string{post, put1, get1, head}},
		"an upstream that cannot say how far it is":               {registry: &upstreamtest.Registry{NoStatus: true}, fault: upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 5}, want: []string{post, put1, get1, head, post, put2}},
		"an upstream that loses the session":                      {fault: upstreamtest.Fault{Method: "PUT", Status: 404, Code: "BLOB_UPLOAD_UNKNOWN"}, want: []string{post, put1, post, put2}},
		"a POST that fails":                                       {fault: upstreamtest.Fault{Method: "POST", Status: 500}, want: []string{post, post, put1}},
		"content that is damaged on the way is sent once more":    {fault: upstreamtest.Fault{Method: "PUT", Status: 400, Code: "DIGEST_INVALID"}, want: []string{post, put1, end1, post, put2}},
		"an outage during the recovery itself":                    {fault: upstreamtest.Fault{Path: "/u1", Status: 503, Times: 3}, want: []string{post, put1, get1, get1, get1, put1}},
		"an answer of 204 is confirmed":                           {registry: &upstreamtest.Registry{Commit: 204}, want: []string{post, put1, head}},
		"so is one of 202":                                        {registry: &upstreamtest.Registry{Commit: 202}, want: []string{post, put1, head}},
		"an upstream without Docker-Content-Digest is believed":   {registry: &upstreamtest.Registry{Digest: "-"}, want: []string{post, put1}},
		"a digest of another algorithm contradicts nothing there": {registry: &upstreamtest.Registry{Digest: digest.SHA512.FromString("x").String()}, want: []string{post, put1}},
	}
	b, d := blobOf(100_000)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := cmp.Or(test.registry, &upstreamtest.Registry{})
				if test.fault != (upstreamtest.Fault{}) {
					r.Inject(test.fault)
				}
				noError(t, push(t, newClient(r), b, d))
				stored(t, r, b, d)
				sawRequests(t, r, d, test.want...)
			})
		})
	}
}

func TestFaultsThatDoNotPassAreErrors(t *testing.T) {
	t.Parallel()
	b, d := blobOf(100_000)
	tests := map[string]struct {
		registry *upstreamtest.Registry
		fault    upstreamtest.Fault
		want     error
		requests int // at most
	}{
		"503 for ever":                          {fault: upstreamtest.Fault{Method: "PUT", Status: 503, Times: -1}, want: oci.ErrUpstream, requests: 10},
		"429 for ever":                          {fault: upstreamtest.Fault{Method: "PUT", Status: 429, Times: -1}, want: oci.ErrTooManyRequests, requests: 10},
		"401 is not tried again":                {fault: upstreamtest.Fault{Method: "PUT", Status: 401}, want: oci.ErrDenied, requests: 2},
		"nor is 403":                            {fault: upstreamtest.Fault{Method: "PUT", Status: 403}, want: oci.ErrDenied, requests: 2},
		"nor 403 to the POST":                   {fault: upstreamtest.Fault{Method: "POST", Status: 403}, want: oci.ErrDenied, requests: 1},
		"nor a repository that is not there":    {fault: upstreamtest.Fault{Method: "PUT", Status: 404, Code: "NAME_UNKNOWN"}, want: oci.ErrNameUnknown, requests: 2},
		"nor a POST that says 404":              {fault: upstreamtest.Fault{Method: "POST", Status: 404}, want: oci.ErrNameUnknown, requests: 1},
		"nor a name the upstream refuses":       {fault: upstreamtest.Fault{Method: "POST", Status: 400, Code: "NAME_INVALID"}, want: oci.ErrNameInvalid, requests: 1},
		"content that always arrives damaged":   {fault: upstreamtest.Fault{Method: "PUT", Status: 400, Code: "DIGEST_INVALID", Times: -1}, want: oci.ErrDigestInvalid, requests: 5},
		"201 with another digest":               {registry: &upstreamtest.Registry{Digest: digest.FromString("x").String()}, want: oci.ErrUpstream, requests: 2},
		"204 without the blob":                  {registry: &upstreamtest.Registry{Commit: 204, StoreNot: true}, want: oci.ErrUpstream, requests: 3},
		"an upstream that takes nothing at all": {registry: &upstreamtest.Registry{RefusePut: 405, RefusePatch: 405}, want: oci.ErrUnsupported, requests: 10},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := cmp.Or(test.registry, &upstreamtest.Registry{})
				if test.fault != (upstreamtest.Fault{}) {
					r.Inject(test.fault)
				}
				err := push(t, newClient(r), b, d)
				if !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				if n := len(r.Requests()); n > test.requests {
					t.Errorf("%d requests, want at most %d: %v", n, test.requests, r.Requests())
				}
			})
		})
	}
}

func TestABrokenUploadSendsOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func([]byte) func() (io.ReadCloser, error){"from a seeker": opener, "from a plain reader": plainOpener} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d := blobOf(1_000_000)
				r := &upstreamtest.Registry{State: true}
				// Seven cuts are more than five attempts: progress earns new ones.
				r.Inject(upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 100_000}, upstreamtest.Fault{Method: "PATCH", Reset: true, ResetAt: 100_000, Times: 6})
				c := newClient(r)
				c.HTTP.Transport = losing(r.Transport())
				u, _, err := c.StartUpload(t.Context(), app, d, "")
				noError(t, err)
				noError(t, u.Send(t.Context(), int64(len(b)), open(b)))
				stored(t, r, b, d)
				if r.Bytes() != int64(len(b)) {
					t.Errorf("%d bytes were sent for a blob of %d", r.Bytes(), len(b))
				}
			})
		})
	}
}

// losing is a network that takes more of a body than arrives before it breaks.
func losing(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err != nil && req.Body != nil {
			_, _ = io.CopyN(io.Discard, req.Body, 12_345)
		}
		return resp, err
	})
}

func TestASlowLocalReaderIsNoStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		b, d := blobOf(1000)
		u, _, err := newClient(r).StartUpload(t.Context(), app, d, "")
		noError(t, err)
		noError(t, u.Send(t.Context(), 1000, func() (io.ReadCloser, error) {
			<-time.After(time.Hour) // Opening takes its time too.
			return io.NopCloser(&slow{strings.NewReader(string(b))}), nil
		}))
		stored(t, r, b, d)
		sawRequests(t, r, d, post, put1)
	})
}

// slow yields 100 bytes every quarter of an hour.
type slow struct{ r io.Reader }

func (s *slow) Read(p []byte) (int, error) {
	<-time.After(slowAnswer + 5*time.Minute)
	return s.r.Read(p[:min(len(p), 100)])
}

func TestAnUploadOfUnknownLengthIsStreamed(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(100_000)
	u, _, err := newClient(r).StartUpload(t.Context(), app, d, "")
	noError(t, err)
	noError(t, u.Send(t.Context(), -1, plainOpener(b)))
	stored(t, r, b, d)
	sawRequests(t, r, d, post, patch1, put1)
}

func TestTheLocalReadersErrorEndsTheUpload(t *testing.T) {
	t.Parallel()
	b, d := blobOf(100_000)
	damaged := errors.New("chunk 3 is damaged")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"open fails": func() (io.ReadCloser, error) { return nil, damaged },
		"read fails": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader(string(b[:40_000])), iotestErr{damaged})), nil
		},
		"the blob is shorter than said": func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(b[:40_000]))), nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := &upstreamtest.Registry{}
			u, _, err := newClient(r).StartUpload(t.Context(), app, d, "")
			noError(t, err)
			err = u.Send(t.Context(), int64(len(b)), open)
			if !errors.Is(err, damaged) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v, want the reader's", err)
			}
			if errors.Is(err, oci.ErrUpstream) {
				t.Errorf("%v blames the upstream", err)
			}
			if n := len(r.Requests()); n > 2 {
				t.Errorf("it was tried again: %v", r.Requests())
			}
		})
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func TestEveryRequestCarriesItsRepository(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	r := &upstreamtest.Registry{RefusePut: 404, Location: func(_ *http.Request, path string) string { return path }}
	c := newClient(r)
	next := c.HTTP.Transport
	c.HTTP = &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		if repo, ok := oci.RepoFrom(req.Context()); !ok || repo != app {
			t.Errorf("%s %s is about %v, want %v", req.Method, req.URL, repo, app)
		}
		if req.ContentLength != 0 && req.GetBody == nil {
			t.Errorf("%s %s cannot be replayed", req.Method, req.URL)
		}
		return next.RoundTrip(req)
	})}
	noError(t, push(t, c, b, d))
	_, _, err := c.HeadBlob(t.Context(), app, d)
	noError(t, err)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// An injector that meets a 401 in the middle sends the body again.
func TestTheBodyCanBeReplayedByTheTransport(t *testing.T) {
	t.Parallel()
	b, d := blobOf(300_000)
	r := &upstreamtest.Registry{}
	c := newClient(r)
	next, refused := c.HTTP.Transport, false
	c.HTTP = &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPut && !refused {
			refused = true
			_, _ = io.CopyN(io.Discard, req.Body, 100_000)
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			if n, err := req.Body.Read(make([]byte, 1)); err == nil {
				t.Errorf("the first body still yields %d bytes", n)
			}
			req = req.Clone(req.Context())
			req.Body = body
		}
		return next.RoundTrip(req)
	})}
	noError(t, push(t, c, b, d))
	stored(t, r, b, d)
}

func TestSendEndsWithItsContextAndNamesTheLastCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Method: "PUT", Status: 503, RetryAfter: "60", Times: -1})
		b, d := blobOf(1000)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		u, _, err := newClient(r).StartUpload(ctx, app, d, "")
		noError(t, err)
		err = u.Send(ctx, 1000, opener(b))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "503") {
			t.Errorf("error %v, want the deadline and the 503", err)
		}
	})
}
