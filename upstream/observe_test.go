package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

// seen is what an observer was told.
type seen struct {
	mu   sync.Mutex
	list []Exchange
	ctxs []context.Context
}

// observed returns a client of the fake whose requests are observed.
func observed(r *upstreamtest.Registry) (*Client, *seen) {
	c, s := newClient(r), &seen{}
	c.HTTP = &http.Client{Transport: Wire{r.Transport()}}
	c.Observe = func(ctx context.Context, x Exchange) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list, s.ctxs = append(s.list, x), append(s.ctxs, ctx)
	}
	return c, s
}

// methods are the methods that the operations are done with.
var methods = map[Op]string{
	OpPing: "GET", OpHead: "HEAD", OpBlobGet: "GET", OpBlobDelete: "DELETE", OpMount: "POST", OpStart: "POST", OpPatch: "PATCH",
	OpUpload: "PUT", OpFinish: "PUT", OpStatus: "GET", OpCancel: "DELETE", OpManifestHead: "HEAD", OpManifestGet: "GET",
	OpManifestPut: "PUT", OpManifestDelete: "DELETE", OpTags: "GET", OpReferrers: "GET",
}

func (s *seen) lines() (lines []string) {
	for _, x := range s.list {
		line := string(x.Op) + " " + strconv.Itoa(x.Status)
		if x.Attempt > 1 {
			line += " attempt " + strconv.Itoa(x.Attempt)
		}
		if x.Sent > 0 {
			line += " sent " + strconv.FormatInt(x.Sent, 10)
		}
		if x.Failure != "" {
			line += " " + string(x.Failure)
		}
		lines = append(lines, line)
	}
	return lines
}

// are fails unless exactly want was told, and the same requests were received.
func (s *seen) are(t *testing.T, r *upstreamtest.Registry, want ...string) {
	t.Helper()
	if got := s.lines(); !slices.Equal(got, want) {
		t.Errorf("told:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	log := r.Log()
	if len(log) != len(s.list) {
		t.Fatalf("told of %d requests, %d were received: %v", len(s.list), len(log), r.Requests())
	}
	for i, x := range s.list {
		if methods[x.Op] != log[i].Method || x.Address != log[i].Host {
			t.Errorf("request %d: told %s at %s, received %s at %s", i, x.Op, x.Address, log[i], log[i].Host)
		}
	}
}

func TestObserversAreToldOfEachRequestThatGoesOut(t *testing.T) {
	t.Parallel()
	b, d := blobOf(300_000)
	small, e := blobOf(10)
	chunked := func(c *Client) { c.MaxBody = 200_000 }
	for _, c := range []struct {
		name string
		fake *upstreamtest.Registry
		set  func(*Client)
		do   func(t *testing.T, c *Client) error
		want []string
	}{
		{"a push of a blob is a start and an upload", &upstreamtest.Registry{}, nil,
			func(t *testing.T, c *Client) error { return push(t, c, b, d) }, []string{"start 202", "upload 201 sent 300000"}},
		{"a push in chunks has its patches and what closes it", &upstreamtest.Registry{}, chunked,
			func(t *testing.T, c *Client) error { return push(t, c, b, d) },
			[]string{"start 202", "patch 202 sent 150000", "patch 202 sent 150000", "finish 201"}},
		{"a retry is a request of its own", &upstreamtest.Registry{Fail: failOnce("PUT", 503)}, nil,
			func(t *testing.T, c *Client) error { return push(t, c, small, e) },
			[]string{"start 202", "upload 503", "status 204", "upload 201 attempt 2 sent 10"}},
		{"so is what comes after a refused way", &upstreamtest.Registry{RefusePut: 404}, nil,
			func(t *testing.T, c *Client) error { return push(t, c, small, e) },
			[]string{"start 202", "upload 404", "cancel 204", "start 202", "patch 202 sent 10", "finish 201"}},
		{"a declined mount goes on in its session", &upstreamtest.Registry{}, nil,
			func(t *testing.T, c *Client) error {
				u, _, err := c.StartUpload(t.Context(), app, e, "acme/base")
				if err != nil {
					return err
				}
				return u.Send(t.Context(), 10, opener(small))
			}, []string{"mount 202", "upload 201 sent 10"}},
		{"a manifest, a look and a list have names of their own", &upstreamtest.Registry{}, nil, look, []string{
			"ping 200", "head 404", "manifest-put 201 sent 2", "manifest-head 200", "manifest-get 200", "tags 200", "referrers 200",
			"manifest-delete 202", "blob-delete 404", "blob-get 404"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, s := observed(c.fake)
				if c.set != nil {
					c.set(client)
				}
				noError(t, c.do(t, client))
				s.are(t, c.fake, c.want...)
				for _, x := range s.list {
					if x.Host != "registry.test" || x.Op != OpPing && x.Repo != app || x.Began.IsZero() {
						t.Errorf("%+v", x)
					}
				}
			})
		})
	}
}

// failOnce fails the first request of a method.
func failOnce(method string, status int) func(*http.Request) int {
	var once sync.Once
	return func(req *http.Request) (answer int) {
		if req.Method == method {
			once.Do(func() { answer = status })
		}
		return answer
	}
}

// look asks for one of everything.
func look(t *testing.T, c *Client) error {
	t.Helper()
	ctx, d := t.Context(), digest.FromString("nothing")
	noError(t, c.Ping(ctx))
	_, _, err := c.HeadBlob(ctx, app, d)
	noError(t, err)
	_, err = c.PutManifest(ctx, app, "v1", oci.MediaTypeOCIManifest, []byte("{}"), nil)
	noError(t, err)
	_, _, err = c.HeadManifest(ctx, app, "v1", nil)
	noError(t, err)
	_, _, err = c.GetManifest(ctx, app, "v1", nil)
	noError(t, err)
	_, _, err = c.Tags(ctx, app, nil)
	noError(t, err)
	_, _, err = c.Referrers(ctx, app, d, nil)
	noError(t, err)
	noError(t, c.DeleteManifest(ctx, app, "v1"))
	if c.DeleteBlob(ctx, app, d) == nil {
		t.Error("a blob that is not there was deleted")
	}
	if _, err := c.GetBlob(ctx, app, d, ""); err == nil {
		t.Error("a blob that is not there was fetched")
	}
	return nil
}

func TestExchangesSayWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	b, d := blobOf(1000)
	r.AddBlob("acme/base", b)
	c, s := observed(r)
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "push-1")
	_, mounted, err := c.StartUpload(ctx, app, d, "acme/base")
	if err != nil || !mounted {
		t.Fatal(mounted, err)
	}
	body, err := c.GetBlob(ctx, app, d, "")
	noError(t, err)
	if len(s.list) != 1 {
		t.Error("told of a pull that is still read")
	}
	_, _ = io.Copy(io.Discard, body)
	noError(t, body.Close())
	_, err = c.PutManifest(ctx, app, "v1", oci.MediaTypeOCIManifest, []byte("{}"), nil)
	noError(t, err)
	if len(s.list) != 3 {
		t.Fatal(s.lines())
	}
	if x := s.list[0]; x.Digest != d || x.From != "acme/base" || x.Status != 201 {
		t.Errorf("mount: %+v", x)
	}
	if x := s.list[1]; x.Digest != d || x.Received != 1000 || x.From != "" {
		t.Errorf("pull: %+v", x)
	}
	if x := s.list[2]; x.Reference != "v1" || x.Digest != "" || x.Sent != 2 {
		t.Errorf("manifest: %+v", x)
	}
	for _, got := range s.ctxs {
		if got.Value(key{}) != "push-1" {
			t.Error("the observer was not given the caller's context")
		}
	}
}

func TestFaultsHaveClasses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault upstreamtest.Fault
		want  Failure
	}{
		{"a connection that is cut is broken", upstreamtest.Fault{Reset: true, Times: -1}, FailedBroken},
		{"an answer that breaks off is too", upstreamtest.Fault{Method: "GET", Cut: 1, Times: -1}, FailedBroken},
		{"an upstream that says nothing is stalled", upstreamtest.Fault{Delay: time.Hour, Times: -1}, FailedStalled},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(c.fault)
				client, s := observed(r)
				client.Attempts = 1
				if _, _, err := client.Tags(t.Context(), app, nil); err == nil {
					t.Error("no error")
				}
				if len(s.list) != 1 || s.list[0].Failure != c.want || c.want == FailedStalled && s.list[0].Took != quickAnswer {
					t.Errorf("told %+v, want one exchange that is %s", s.list, c.want)
				}
			})
		})
	}
}

func TestRequestsOnTheSideAreNotToldOf(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c, s := observed(r)
	wire := c.HTTP.Transport
	c.HTTP = &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		aside, err := http.NewRequestWithContext(oci.ContextAside(req.Context()), "GET", "https://registry.test/v2/", nil)
		noError(t, err)
		resp, err := wire.RoundTrip(aside)
		noError(t, err)
		noError(t, resp.Body.Close())
		return wire.RoundTrip(req)
	})}
	_, _, err := c.HeadBlob(t.Context(), app, digest.FromString("nothing"))
	noError(t, err)
	if got := s.lines(); !slices.Equal(got, []string{"head 404"}) || len(r.Log()) != 2 {
		t.Errorf("told %q of %q", got, r.Requests())
	}
}

func TestWithoutAnObserverARequestCostsNothingMore(t *testing.T) {
	c := newClient(&upstreamtest.Registry{})
	k := call{op: OpHead}
	ctx, u := t.Context(), c.URLs[0]
	if n := testing.AllocsPerRun(100, func() {
		if got, e := c.observe(ctx, k, u); got != ctx || e != nil {
			t.Error("a context was made for nobody")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFaultsOfATransportHaveClasses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want Failure
	}{
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host"}}, FailedName},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, FailedDial},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, FailedBroken},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, FailedTLS},
		{tls.RecordHeaderError{Msg: "no TLS"}, FailedTLS},
		{errors.New("whatever else"), FailedBroken},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, s := observed(&upstreamtest.Registry{})
			client.HTTP.Transport, client.Attempts = Wire{brokenDial{c.err}}, 1
			if _, _, err := client.HeadBlob(t.Context(), app, digest.FromString("x")); err == nil {
				t.Error("no error")
			}
			for _, x := range s.list {
				if x.Failure != c.want || x.Status != 0 {
					t.Errorf("%v: told %+v, want %s", c.err, x, c.want)
				}
			}
			if len(s.list) == 0 {
				t.Errorf("%v: told of nothing", c.err)
			}
		})
	}
	client, s := observed(&upstreamtest.Registry{})
	ctx, cancel := context.WithCancel(t.Context())
	client.HTTP.Transport = Wire{roundTripper(func(*http.Request) (*http.Response, error) {
		cancel()
		return nil, context.Canceled
	})}
	if err := client.Ping(ctx); !errors.Is(err, context.Canceled) || len(s.list) != 1 || s.list[0].Failure != FailedCanceled {
		t.Errorf("called off: %v, told %+v", err, s.list)
	}
}

// Of an answer that nobody reads whole, what it announced counts.
func TestWhatIsReceivedIsCounted(t *testing.T) {
	t.Parallel()
	const long = 100_000
	c, s := observed(&upstreamtest.Registry{})
	c.HTTP.Transport = Wire{upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(long))
		switch req.Method {
		case http.MethodPut:
			w.WriteHeader(http.StatusCreated)
		case http.MethodGet:
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(make([]byte, long))
	}))}
	_, _, _ = c.HeadBlob(t.Context(), app, digest.FromString("x"))
	_, _ = c.GetBlob(t.Context(), app, digest.FromString("x"), "")
	_, _ = c.PutManifest(t.Context(), app, "v1", "x", []byte("{}"), nil)
	var got []int64
	for _, x := range s.list {
		got = append(got, x.Received)
	}
	if want := []int64{0, long, long}; !slices.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
	// Without an observer the wire only passes on.
	c.Observe = nil
	_, _, _ = c.HeadBlob(t.Context(), app, digest.FromString("x"))
	if len(s.list) != 3 {
		t.Errorf("told of %d", len(s.list))
	}
}

func TestExchangesAreCounted(t *testing.T) {
	t.Parallel()
	m := NewMetrics(func(host string) string { return "up " + host })
	for _, x := range []Exchange{
		{Host: "a", Op: OpHead, Status: 200, Received: 5, Attempt: 1},
		{Host: "a", Op: OpHead, Status: 429, Attempt: 2},
		{Host: "a", Op: OpUpload, Status: 201, Sent: 7, Attempt: 3},
		{Host: "a", Op: OpBlobGet, Status: 200, Failure: FailedBroken, Attempt: 1},
		{Host: "a", Op: OpHead, Failure: FailedCanceled, Attempt: 1},
		{Host: "b", Op: OpHead, Status: 99, Attempt: 1},
		{Host: "b", Op: OpHead, Status: 600, Attempt: 1},
		{Host: "b", Op: OpHead, Status: 500, Attempt: 1},
		{Host: "b", Op: OpHead, Failure: FailedDial, Attempt: 1},
		{Host: "b", Op: OpHead, Failure: FailedCanceled, Attempt: 1},
	} {
		m.Observe(x)
	}
	names, want := []string{"up", "requests_total", "sent_bytes_total", "received_bytes_total", "failures_total", "retries_total", "rate_limited_total"}, ""
	for i := range names {
		names[i] = "pushproxy_upstream_" + names[i]
	}
	for _, line := range []string{
		`up{upstream="up a"} 1`, `up{upstream="up b"} 0`,
		`requests_total{code_class="2xx",op="head",upstream="up a"} 1`, `requests_total{code_class="4xx",op="head",upstream="up a"} 1`,
		`requests_total{code_class="2xx",op="upload",upstream="up a"} 1`, `requests_total{code_class="2xx",op="blob-get",upstream="up a"} 1`,
		`requests_total{code_class="none",op="head",upstream="up a"} 1`, `requests_total{code_class="none",op="head",upstream="up b"} 4`,
		`requests_total{code_class="5xx",op="head",upstream="up b"} 1`,
		`sent_bytes_total{upstream="up a"} 7`, `sent_bytes_total{upstream="up b"} 0`, `received_bytes_total{upstream="up a"} 5`, `received_bytes_total{upstream="up b"} 0`,
		`failures_total{fault="broken",upstream="up a"} 1`, `failures_total{fault="canceled",upstream="up a"} 1`,
		`failures_total{fault="dial",upstream="up b"} 1`, `failures_total{fault="canceled",upstream="up b"} 1`,
		`retries_total{upstream="up a"} 2`, `rate_limited_total{upstream="up a"} 1`,
	} {
		want += "pushproxy_upstream_" + line + "\n"
	}
	all, err := testutil.CollectAndFormat(m, expfmt.TypeTextPlain, names...)
	noError(t, err)
	var got []string
	for line := range strings.Lines(string(all)) {
		if !strings.HasPrefix(line, "#") {
			got = append(got, line)
		}
	}
	wanted := slices.Collect(strings.Lines(want))
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("counted:\n%swant:\n%s", strings.Join(got, ""), strings.Join(wanted, ""))
	}
}
