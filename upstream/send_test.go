package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
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

// What a registry says to an upload in its own words, after which nothing is
// tried: how far it has come makes no difference.
func TestARefusalEndsAnUploadHoweverFarItIs(t *testing.T) {
	t.Parallel()
	b, d := blobOf(100_000)
	cut := upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 60_000}
	for name, test := range map[string]struct {
		fault upstreamtest.Fault
		want  error
	}{
		"401":                        {upstreamtest.Fault{Status: 401}, oci.ErrDenied},
		"403":                        {upstreamtest.Fault{Status: 403}, oci.ErrDenied},
		"507":                        {upstreamtest.Fault{Status: 507}, oci.ErrUpstream},
		"a name that is refused":     {upstreamtest.Fault{Status: 400, Code: "NAME_INVALID"}, oci.ErrNameInvalid},
		"a repository that is gone":  {upstreamtest.Fault{Status: 404, Code: "NAME_UNKNOWN"}, oci.ErrNameUnknown},
		"denied by another status":   {upstreamtest.Fault{Status: 400, Code: "DENIED"}, &oci.Error{Status: 400, Code: "DENIED"}},
		"no login by another status": {upstreamtest.Fault{Status: 400, Code: "UNAUTHORIZED"}, &oci.Error{Status: 400, Code: "UNAUTHORIZED"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				test.fault.Method = "PATCH"
				r.Inject(cut, test.fault)
				if err := push(t, newClient(r), b, d); !errors.Is(err, test.want) {
					t.Errorf("error %v, want %v", err, test.want)
				}
				sawRequests(t, r, d, post, put1, get1, patch1)
			})
		})
	}
}

func TestWhatAnUploadGoesOnWith(t *testing.T) {
	t.Parallel()
	b, d := blobOf(100_000)
	cut := upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 60_000}
	const get2, get3, end2, put3 = "GET …/blobs/uploads/u2", "GET …/blobs/uploads/u3", "DELETE …/blobs/uploads/u2", "PUT …/blobs/uploads/u3?digest"
	for name, test := range map[string]struct {
		host     string
		faults   []upstreamtest.Fault
		answers  func(w http.ResponseWriter, req *http.Request) bool
		want     []string
		err      error
		requests int
	}{
		"a session that is lost, and may not be opened again": {faults: []upstreamtest.Fault{{Method: "PUT", Status: 404, Code: "BLOB_UPLOAD_UNKNOWN"}, {Method: "POST", Skip: 1, Status: 403}},
			want: []string{post, put1, post}, err: oci.ErrDenied},
		"a session that is lost again and again": {faults: []upstreamtest.Fault{{Method: "PUT", Status: 404, Code: "BLOB_UPLOAD_UNKNOWN", Times: -1}},
			err: oci.ErrBlobUploadUnknown, requests: 20},
		"nothing has arrived where blobs go whole": {host: "europe-docker.pkg.dev", faults: []upstreamtest.Fault{{Method: "PUT", Reset: true}},
			want: []string{post, put1, get1, put1}},
		"more has arrived than there is": {faults: []upstreamtest.Fault{{Method: "PUT", Status: 503}}, answers: func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodGet {
				w.Header().Set("Range", "0-999999")
			}
			return req.Method == http.MethodGet
		}, want: []string{post, put1, head, end1, post, put2}},
		"what was put together is damaged, and breaks off again": {faults: []upstreamtest.Fault{cut, {Method: "PUT", Status: 400, Code: "DIGEST_INVALID"}, cut},
			want: []string{post, put1, get1, patch1, put1, end1, post, put2, get2, head, end2, post, put3}},
		"what is sent again is damaged, too": {faults: []upstreamtest.Fault{{Method: "PUT", Status: 400, Code: "DIGEST_INVALID", Times: -1}},
			want: []string{post, put1, end1, post, put2}, err: oci.ErrDigestInvalid},
		"a part that is refused where it goes on is sent from the start": {faults: []upstreamtest.Fault{cut, {Method: "PATCH", Status: 416}},
			want: []string{post, put1, get1, patch1, end1, post, put2}},
		"a body that is too large where blobs go whole": {host: "europe-docker.pkg.dev", faults: []upstreamtest.Fault{{Method: "PUT", Status: 413}},
			want: []string{post, put1}, err: &oci.Error{Status: 413, Code: "UNKNOWN"}},
		"a refusal that names a place": {faults: []upstreamtest.Fault{{Method: "PUT", Status: 404}, {Method: "PATCH", Status: 403}}, answers: func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodPatch {
				w.Header().Set("Location", "https://evil.test/v2/acme/app/blobs/uploads/u1")
			}
			return false
		}, want: []string{post, put1, end1, post, patch2}, err: oci.ErrDenied},
		"a chunk's refusal that names a place": {faults: []upstreamtest.Fault{{Method: "PUT", Status: 413}, {Method: "PATCH", Status: 403}}, answers: func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodPatch {
				w.Header().Set("Location", "https://evil.test/v2/acme/app/blobs/uploads/u1")
			}
			return false
		}, want: []string{post, put1, end1, post, patch2}, err: oci.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(test.faults...)
				c := newClient(r)
				if test.host != "" {
					c.Host = test.host
				}
				if test.answers != nil {
					c.HTTP.Transport = instead(r, test.answers)
				}
				err := push(t, c, b, d)
				if !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				if err == nil {
					stored(t, r, b, d)
				}
				if test.err == oci.ErrDigestInvalid && !strings.Contains(err.Error(), "check the local store") {
					t.Errorf("%v does not say what to do", err)
				}
				if test.want != nil {
					sawRequests(t, r, d, test.want...)
				} else if n := len(r.Requests()); n > test.requests {
					t.Errorf("%d requests, want at most %d: %q", n, test.requests, r.Requests())
				}
			})
		})
	}
}

func TestAnEmptyBlobIsSentInOneWay(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	r.Inject(upstreamtest.Fault{Method: "PUT", Status: 404})
	b, d := blobOf(0)
	if err := push(t, newClient(r), b, d); !errors.Is(err, oci.ErrBlobUploadUnknown) {
		t.Errorf("error %v", err)
	}
	sawRequests(t, r, d, post, put1)
}

func TestWhatATransportDecidesIsFinal(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	for name, test := range map[string]struct {
		err   error
		want  error
		tries int
	}{
		"a credential that is refused":      {oci.ErrDenied.With("no"), oci.ErrDenied, 1},
		"a token server that is down":       {oci.ErrUpstream.With("down"), nil, 2},
		"a token server that is busy":       {oci.ErrTooManyRequests.With("busy"), nil, 2},
		"a host that there is no way to":    {&cutOff{err: errors.New("no way")}, oci.ErrUpstream, 1},
		"a connection that broke":           {errors.New("reset"), nil, 2},
		"a certificate that is not trusted": {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, oci.ErrUpstream, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				c, tries := newClient(r), 0
				c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
					if req.Method == http.MethodPut {
						if tries++; tries == 1 {
							return nil, test.err
						}
					}
					return r.Transport().RoundTrip(req)
				})
				if err := push(t, c, b, d); !errors.Is(err, test.want) || tries != test.tries {
					t.Errorf("error %v after %d tries, want %v after %d", err, tries, test.want, test.tries)
				}
			})
		})
	}
}

func TestAnUploadOfUnknownLengthGoesOnToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Method: "PATCH", Reset: true, ResetAt: 60_000})
		c := newClient(r)
		// Where blobs go whole, one whose length is not known is streamed all the same.
		b, d := blobOf(100_000)
		u, _, err := c.StartUpload(t.Context(), app, d, "")
		noError(t, err)
		noError(t, u.Send(t.Context(), -1, plainOpener(b)))
		stored(t, r, b, d)
		sawRequests(t, r, d, post, patch1, get1, patch1, put1)
		for _, q := range r.Log() {
			if q.Header.Get("Content-Range") != "" {
				t.Errorf("%s says it is %s", q, q.Header.Get("Content-Range"))
			}
		}
		google := &upstreamtest.Registry{}
		c = newClient(google)
		c.Host = "europe-docker.pkg.dev"
		u, _, err = c.StartUpload(t.Context(), app, d, "")
		noError(t, err)
		noError(t, u.Send(t.Context(), -1, plainOpener(b)))
		stored(t, google, b, d)
		sawRequests(t, google, d, post, patch1, put1)
	})
}

func TestWhatPartsSayAboutThemselves(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	for name, test := range map[string]struct {
		registry *upstreamtest.Registry
		maxBody  int64
		want     []string // length and range of each request with a body
	}{
		"a whole blob":  {&upstreamtest.Registry{}, 0, []string{"PUT 1000 "}},
		"a single part": {&upstreamtest.Registry{RefusePut: 404}, 0, []string{"PUT 1000 ", "PATCH 1000 "}},
		"chunks":        {&upstreamtest.Registry{State: true}, 400, []string{"PATCH 400 0-399", "PATCH 400 400-799", "PATCH 200 800-999"}},
	} {
		var got []string
		test.registry.Fail = func(req *http.Request) int {
			if req.ContentLength != 0 {
				got = append(got, req.Method+" "+strconv.FormatInt(req.ContentLength, 10)+" "+req.Header.Get("Content-Range"))
			}
			return 0
		}
		c := newClient(test.registry)
		c.MaxBody = test.maxBody
		noError(t, push(t, c, b, d))
		stored(t, test.registry, b, d)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestChunksThatBreakAreSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{State: true}
		r.Inject(upstreamtest.Fault{Method: "PATCH", Skip: 1, Reset: true, ResetAt: 100})
		c := newClient(r)
		c.MaxBody = 400
		b, d := blobOf(1000)
		noError(t, push(t, c, b, d))
		stored(t, r, b, d)
		if r.Bytes() != 1000 {
			t.Errorf("%d bytes were sent", r.Bytes())
		}
	})
}

// A look decides what a 2xx that is no 201 is worth.
func TestALookConfirmsTheWholeBlob(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	for name, test := range map[string]struct {
		registry *upstreamtest.Registry
		length   int64 // that the look says
		want     error
	}{
		"of its length":          {&upstreamtest.Registry{Commit: 204}, 1000, nil},
		"of a length not said":   {&upstreamtest.Registry{Commit: 204}, -1, nil},
		"of another length":      {&upstreamtest.Registry{Commit: 204}, 999, oci.ErrUpstream},
		"of which there is none": {&upstreamtest.Registry{Commit: 204, StoreNot: true}, -2, oci.ErrUpstream},
	} {
		for _, whole := range []bool{true, false} {
			c := newClient(test.registry)
			c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
				resp, err := test.registry.Transport().RoundTrip(req)
				if err == nil && req.Method == http.MethodHead && test.length != -2 {
					resp.ContentLength = test.length
				}
				return resp, err
			})
			u, _, err := c.StartUpload(t.Context(), app, d, "")
			noError(t, err)
			want := test.want
			if whole {
				err = u.Send(t.Context(), 1000, opener(b))
			} else {
				noError(t, second(u.Stream(t.Context(), io.NopCloser(strings.NewReader(string(b))))))
				if err = u.Finish(t.Context(), d); test.length == 999 {
					want = nil // Finish does not know its length.
				}
			}
			if !errors.Is(err, want) {
				t.Errorf("%s, whole %v: %v, want %v", name, whole, err, want)
			}
		}
	}
}

func TestWhatFinishSays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		there  bool
		want   error
	}{
		"a refusal is one, although the blob is there": {403, true, oci.ErrDenied},
		"a session that is gone, with the blob there":  {404, true, nil},
		"a session that is gone, without it":           {404, false, oci.ErrBlobUploadUnknown},
	} {
		r := &upstreamtest.Registry{}
		b, d := blobOf(100)
		u, _, err := newClient(r).StartUpload(t.Context(), app, "", "")
		noError(t, err)
		noError(t, second(u.Stream(t.Context(), io.NopCloser(strings.NewReader(string(b))))))
		if test.there {
			r.AddBlob("acme/app", b)
		}
		r.Inject(upstreamtest.Fault{Method: "PUT", Status: test.status})
		if err := u.Finish(t.Context(), d); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestAStreamThatFails(t *testing.T) {
	t.Parallel()
	damaged := errors.New("chunk 3 is damaged")
	r := &upstreamtest.Registry{}
	c := newClient(r)
	start := func() *Upload {
		u, _, err := c.StartUpload(t.Context(), app, "", "")
		noError(t, err)
		return u
	}
	if _, err := start().Stream(t.Context(), io.NopCloser(iotestErr{damaged})); !errors.Is(err, damaged) || errors.Is(err, oci.ErrUpstream) {
		t.Errorf("its reader fails: %v", err)
	}
	r.Inject(upstreamtest.Fault{Method: "PATCH", Status: 403})
	if _, err := start().Stream(t.Context(), io.NopCloser(strings.NewReader("x"))); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("it is refused: %v", err)
	}
	// An injector that wants to send it again cannot.
	c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodPatch {
			_, _ = io.Copy(io.Discard, req.Body)
			if _, err := req.GetBody(); err == nil || !strings.Contains(err.Error(), "cannot be sent twice") {
				t.Errorf("it is opened again: %v", err)
			}
			return nil, errors.New("given up")
		}
		return r.Transport().RoundTrip(req)
	})
	if _, err := start().Stream(t.Context(), io.NopCloser(strings.NewReader("x"))); err == nil {
		t.Error("a stream that was not taken is no error")
	}
	u := start()
	noError(t, u.Cancel(t.Context()))
	r.Reset()
	closed := &ender{}
	if _, err := u.Stream(t.Context(), closed); !errors.Is(err, oci.ErrBlobUploadUnknown) || !closed.over {
		t.Errorf("without a session: %v, closed %v", err, closed.over)
	}
	if err := u.Finish(t.Context(), digest.FromString("")); !errors.Is(err, oci.ErrBlobUploadUnknown) {
		t.Errorf("finished without a session: %v", err)
	}
	if err := u.Send(t.Context(), 0, opener(nil)); err == nil {
		t.Error("what has no digest is sent")
	}
	sawRequests(t, r, "-")
}

type ender struct{ over bool }

func (e *ender) Read([]byte) (int, error) { return 0, io.EOF }
func (e *ender) Close() error             { e.over = true; return nil }

func TestNothingIsSentThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	_, d := blobOf(10)
	u, _, err := newClient(r).StartUpload(t.Context(), app, d, "")
	noError(t, err)
	gone := errors.New("gone")
	if err := u.Send(t.Context(), 10, func() (io.ReadCloser, error) { return nil, gone }); !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
	sawRequests(t, r, d, post)
}

// What an upload that broke off finds when it is sent again.
func TestAnUploadThatIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	b, d := blobOf(100_000)
	for name, test := range map[string]struct {
		host   string
		faults []upstreamtest.Fault
		status func(w http.ResponseWriter) bool // answers the GET
		there  bool
		want   []string
		err    error
	}{
		"its session is there":         {want: []string{get1, patch1, put1}},
		"its session is gone":          {faults: []upstreamtest.Fault{{Method: "GET", Status: 404}}, want: []string{get1, post, put2}},
		"blobs go whole":               {host: "europe-docker.pkg.dev", want: []string{get1, end1, post, put2}},
		"it is not said how far it is": {status: func(http.ResponseWriter) bool { return true }, want: []string{post, put2}},
		"it is said to be elsewhere": {status: func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "https://evil.test/u1")
			w.Header().Set("Range", "0-59999")
			return true
		}, want: []string{post, put2}},
		"it may not be asked":                  {faults: []upstreamtest.Fault{{Method: "GET", Status: 403}}, want: []string{get1, post, put2}},
		"it fails once, and the blob is there": {faults: []upstreamtest.Fault{{Method: "GET", Status: 503}, {Method: "GET", Status: 404}}, there: true, want: []string{get1, get1, head}},
		"it fails, and the stop is near":       {faults: []upstreamtest.Fault{{Method: "GET", Status: 503, Times: -1}}, want: []string{get1, get1, get1, get1, get1}, err: oci.ErrUpstream},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				c := newClient(r)
				if test.host != "" {
					c.Host = test.host
				}
				c.Attempts = 1
				r.Inject(upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 60_000})
				u, _, err := c.StartUpload(t.Context(), app, d, "")
				noError(t, err)
				if u.Send(t.Context(), int64(len(b)), opener(b)) == nil {
					t.Fatal("it did not break off")
				}
				r.Reset()
				r.Inject(test.faults...)
				c.Attempts = 5
				if test.there {
					r.AddBlob("acme/app", b)
				}
				if test.status != nil {
					c.HTTP.Transport = instead(r, func(w http.ResponseWriter, req *http.Request) bool {
						return req.Method == http.MethodGet && test.status(w)
					})
				}
				if err := u.Send(t.Context(), int64(len(b)), opener(b)); !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				sawRequests(t, r, d, test.want...)
			})
		})
	}
	c := newClient(&upstreamtest.Registry{})
	if u, err := c.Reopen(app, d, "https://evil.test/v2/acme/app/blobs/uploads/u1"); !errors.Is(err, errLocation) {
		t.Errorf("reopened elsewhere: %v, %v", u, err)
	}
}
