package upstream

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestGetBlob(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(1000)
	r.AddBlob("acme/app", b)
	c := newClient(r)
	tests := map[string]struct {
		header, part string
		status       int
	}{
		"whole":        {"", string(b), 200},
		"from a point": {"bytes=900-", string(b[900:]), 206},
		"a part":       {"bytes=10-19", string(b[10:20]), 206},
		"the end":      {"bytes=-5", string(b[995:]), 206},
	}
	for name, test := range tests {
		body, err := c.GetBlob(t.Context(), app, d, test.header)
		noError(t, err)
		got, err := io.ReadAll(body)
		noError(t, err)
		noError(t, body.Close())
		if string(got) != test.part || body.Size != int64(len(test.part)) || body.Status != test.status || (body.ContentRange != "") != (test.status == 206) {
			t.Errorf("%s: %d bytes of %d, status %d, %q", name, len(got), body.Size, body.Status, body.ContentRange)
		}
	}
}

func TestGetBlobErrors(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(1000)
	r.AddBlob("acme/app", b)
	c := newClient(r)
	if _, err := c.GetBlob(t.Context(), app, digest.FromString("x"), ""); !errors.Is(err, oci.ErrBlobUnknown) {
		t.Errorf("missing: %v", err)
	}
	for _, header := range []string{"bytes=0-1,5-6", "lines=1-2", "bytes=0-1\r\nX: y"} {
		if _, err := c.GetBlob(t.Context(), app, d, header); !errors.Is(err, oci.ErrRangeInvalid) {
			t.Errorf("range %q: %v", header, err)
		}
	}
	if e := oci.AsError(second(c.GetBlob(t.Context(), app, d, "bytes=5000-"))); e.Status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a range beyond the end: %d", e.Status)
	}
	r.Digest = digest.FromString("x").String()
	if _, err := c.GetBlob(t.Context(), app, d, ""); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("another digest: %v", err)
	}
	r.Digest, r.Header = "", http.Header{"Content-Encoding": {"gzip"}}
	if _, err := c.GetBlob(t.Context(), app, d, ""); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("an encoding that was not asked for: %v", err)
	}
	r.Header = http.Header{"Content-Encoding": {"identity"}}
	noError(t, second(c.GetBlob(t.Context(), app, d, "")))
	for _, q := range r.Log() {
		if got := q.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding %q", got)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestS32APullThatStallsEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(&upstreamtest.Registry{})
		c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: &stalled{req: req}, ContentLength: -1}, nil
		})
		body, err := c.GetBlob(t.Context(), app, digest.FromString("x"), "")
		noError(t, err)
		if n, err := body.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("first read: %d, %v", n, err)
		}
		<-time.After(time.Hour) // A slow consumer is not a stall.
		start := time.Now()
		if _, err := body.Read(make([]byte, 1)); !errors.Is(err, errStalled) {
			t.Errorf("read: %v, want errStalled", err)
		}
		if d := time.Since(start); d != idleBody {
			t.Errorf("it took %s, want %s", d, idleBody)
		}
		noError(t, body.Close())
	})
}

func TestS32AnUpstreamThatDripsIsGivenUpAndASlowOneIsNot(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		n       int
		every   time.Duration
		stalled bool
	}{
		{"a byte a second", 1, time.Second, true},
		{"a byte each 59 seconds", 1, 59 * time.Second, true},
		{"2 KiB a second", 2 << 10, time.Second, false},
		{"8 KiB each 7 seconds", 8 << 10, 7 * time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newClient(&upstreamtest.Registry{})
				c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: &drip{req: req, n: test.n, every: test.every, left: 1 << 20}, ContentLength: -1}, nil
				})
				body, err := c.GetBlob(t.Context(), app, digest.FromString("x"), "")
				noError(t, err)
				start := time.Now()
				n, err := io.Copy(io.Discard, body)
				if test.stalled != errors.Is(err, errStalled) || !test.stalled && n != 1<<20 {
					t.Errorf("%d bytes, %v", n, err)
				}
				if took := time.Since(start); test.stalled && took > 2*idleBody {
					t.Errorf("it took %s", took)
				}
				noError(t, body.Close())
			})
		})
	}
}

// drip is a body that yields n bytes at a time.
type drip struct {
	req   *http.Request
	n     int
	every time.Duration
	left  int
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left <= 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.every):
	case <-d.req.Context().Done():
		return 0, d.req.Context().Err()
	}
	n := min(len(p), d.n, d.left)
	d.left -= n
	return n, nil
}

func (d *drip) Close() error { return nil }

// stalled is a body that yields one byte and then nothing.
type stalled struct {
	req     *http.Request
	started bool
}

func (s *stalled) Read(p []byte) (int, error) {
	if !s.started {
		s.started = true
		return 1, s.req.Context().Err()
	}
	<-s.req.Context().Done()
	return 0, s.req.Context().Err()
}

func (s *stalled) Close() error { return nil }

func TestTags(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	body, link, err := c.Tags(t.Context(), app, nil)
	if err != nil || link != "" || string(body) != `{"name":"acme/app","tags":[]}` {
		t.Errorf("no tags: %s, %q, %v; want an empty list", body, link, err)
	}
	for _, tag := range []string{"a", "b", "c"} {
		r.AddManifest("acme/app", tag, "x", []byte("{}"))
	}
	body, link, err = c.Tags(t.Context(), app, url.Values{"n": {"2"}, "evil": {"1"}})
	if err != nil || link != "last=b&n=2" {
		t.Errorf("first page: %s, %q, %v", body, link, err)
	}
	query, _ := url.ParseQuery(link)
	if body, link, err = c.Tags(t.Context(), app, query); err != nil || link != "" || string(body) != `{"name":"acme/app","tags":["c"]}`+"\n" {
		t.Errorf("second page: %s, %q, %v", body, link, err)
	}
	sawRequests(t, r, "-", "GET …/tags/list", "GET …/tags/list?n", "GET …/tags/list?last&n")
	r.Inject(upstreamtest.Fault{Status: 404, Code: "NAME_UNKNOWN"})
	if _, _, err := c.Tags(t.Context(), app, nil); !errors.Is(err, oci.ErrNameUnknown) {
		t.Errorf("an unknown repository: %v", err)
	}
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{Header: http.Header{"X-Internal": {"secret"}, "Link": {`<https://internal.test/v2/acme/app/referrers/x?last=q>; rel="next"`}}}
	c := newClient(r)
	d := digest.FromString("x")
	raw, header, err := c.Referrers(t.Context(), app, d, url.Values{"artifactType": {"sbom"}})
	if err != nil || len(raw) == 0 {
		t.Fatalf("Referrers = %s, %v", raw, err)
	}
	want := map[string]string{"Content-Type": oci.MediaTypeOCIIndex, "Oci-Filters-Applied": "artifactType", "Link": `<?last=q>; rel="next"`}
	for name := range header {
		if header.Get(name) != want[name] {
			t.Errorf("header %s: %q, want %q", name, header.Get(name), want[name])
		}
	}
	r.NoReferrers = true
	if _, _, err := c.Referrers(t.Context(), app, d, nil); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("an upstream without them: %v, want ErrNotFound", err)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	noError(t, c.Ping(t.Context()))
	for status, want := range map[int]error{401: oci.ErrDenied, 404: oci.ErrUpstream} {
		r.Inject(upstreamtest.Fault{Status: status})
		if err := c.Ping(t.Context()); !errors.Is(err, want) {
			t.Errorf("%d: %v, want %v", status, err, want)
		}
	}
}

func TestCanPush(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	noError(t, c.CanPush(t.Context(), app))
	if r.Sessions() != 0 {
		t.Errorf("%d sessions are left open", r.Sessions())
	}
	r.Inject(upstreamtest.Fault{Method: "POST", Status: 403})
	if err := c.CanPush(t.Context(), app); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("refused: %v, want ErrDenied", err)
	}
}

func TestAPartThatNobodyAskedForIsNoBlob(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(1000)
	r.AddBlob("acme/app", b)
	c := newClient(r)
	c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.Header.Set("Range", "bytes=1-2")
		return r.Transport().RoundTrip(req)
	})
	if body, err := c.GetBlob(t.Context(), app, d, ""); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("%+v, %v; want ErrUpstream", body, err)
	}
}

func TestPagesAreNoLargerThanTheUpstreamTakes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ host, n, want string }{
		{"1.dkr.ecr.eu-west-1.amazonaws.com", "5000", "1000"},
		{"1.dkr.ecr.eu-west-1.amazonaws.com", "1000", "1000"},
		{"1.dkr.ecr.eu-west-1.amazonaws.com", "10", "10"},
		{"1.dkr.ecr.eu-west-1.amazonaws.com", "many", "many"},
		{"1.dkr.ecr.eu-west-1.amazonaws.com", "", ""},
		{"registry.test", "5000", "5000"},
	} {
		r := &upstreamtest.Registry{}
		c := newClient(r)
		c.Host = test.host
		query := url.Values{}
		if test.n != "" {
			query.Set("n", test.n)
		}
		noError(t, second2(c.Tags(t.Context(), app, query)))
		if got := r.Log()[0].Query.Get("n"); got != test.want {
			t.Errorf("%s, n=%s: asked for %q, want %q", test.host, test.n, got, test.want)
		}
	}
}

func TestS32AListHasAnEnd(t *testing.T) {
	t.Parallel()
	for _, extra := range []int{0, 1} {
		c := newClient(&upstreamtest.Registry{})
		c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(append([]byte("{}"), make([]byte, maxList-2+extra)...))
		}))
		body, _, err := c.Tags(t.Context(), app, nil)
		if extra == 0 && (err != nil || len(body) != maxList) || extra == 1 && (!errors.Is(err, oci.ErrUpstream) || body != nil) {
			t.Errorf("%d bytes beyond: %d bytes, %v", extra, len(body), err)
		}
	}
}

func TestReferrersSayNoMoreThanTheUpstream(t *testing.T) {
	t.Parallel()
	_, header, err := newClient(&upstreamtest.Registry{}).Referrers(t.Context(), app, digest.FromString("x"), nil)
	if err != nil || len(header) != 1 || header.Get("Content-Type") != oci.MediaTypeOCIIndex {
		t.Errorf("%v, %v; want a Content-Type alone", header, err)
	}
}

func TestWhatBelongsToARegistryIsNotDoneToALookAlike(t *testing.T) {
	t.Parallel()
	for host, name := range map[string]string{
		"ghcr.io": "GitHub Container Registry", "GHCR.io:443": "GitHub Container Registry", "evilghcr.io": "", "ghcr.io.evil.test": "",
		"1.dkr.ecr.eu-west-1.amazonaws.com": "Amazon ECR", "dkr.ecr.test": "", "acme.jfrog.io": "Artifactory cloud", "jfrog.io": "", "acme.jfrog.io.test": "",
	} {
		c := &Client{Host: host}
		if got := c.quirk().Name; got != name {
			t.Errorf("%s is taken for %q, want %q", host, got, name)
		}
		c = &Client{Host: "mirror.test", URLs: []*url.URL{{Scheme: "https", Host: host}}}
		if got := c.quirk().Name; got != name {
			t.Errorf("%s at mirror.test is taken for %q, want %q", host, got, name)
		}
	}
}
