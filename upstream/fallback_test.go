package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

var errDown = errors.New("connection refused")

// network is a transport on which some origins are down.
type network struct {
	next  http.RoundTripper
	down  map[string]error
	tried []string
}

func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	origin := req.URL.Scheme + "://" + req.URL.Host
	n.tried = append(n.tried, origin)
	if err := n.down[origin]; err != nil {
		return nil, err
	}
	return n.next.RoundTrip(req)
}

func TestFallbacks(t *testing.T) {
	t.Parallel()
	badCertificate := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	const a, b, clear = "https://a.test", "https://b.test", "http://a.test:5000"
	tests := map[string]struct {
		urls  []string
		down  map[string]error
		fault upstreamtest.Fault
		want  []string
		err   error
	}{
		"the first is used when it works":           {urls: []string{a, b}, want: []string{a}},
		"the next when its transport fails":         {urls: []string{a, b}, down: map[string]error{a: errDown}, want: []string{a, b}},
		"never after an answer":                     {urls: []string{a, b}, fault: upstreamtest.Fault{Status: 404}, want: []string{a}},
		"nor after one that refuses":                {urls: []string{a, b}, fault: upstreamtest.Fault{Status: 401}, want: []string{a}, err: oci.ErrDenied},
		"nor after a credential that was refused":   {urls: []string{a, b}, down: map[string]error{a: oci.ErrDenied}, want: []string{a}, err: oci.ErrDenied},
		"a 503 is asked again at the same place":    {urls: []string{a, b}, fault: upstreamtest.Fault{Status: 503}, want: []string{a, a}},
		"clear text where the config says so":       {urls: []string{a, clear}, down: map[string]error{a: errDown}, want: []string{a, clear}},
		"no clear text after a certificate failed":  {urls: []string{a, clear}, down: map[string]error{a: badCertificate}, want: []string{a}, err: oci.ErrUpstream},
		"all down is an error that names the cause": {urls: []string{a, b}, down: map[string]error{a: errDown, b: errDown}, want: []string{a, b, a, b, a, b}, err: errDown},
		"a server without TLS is not one with it":   {urls: []string{a, clear}, down: map[string]error{a: tls.RecordHeaderError{}}, want: []string{a, clear}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				if test.fault.Status != 0 {
					r.Inject(test.fault)
				}
				n := &network{next: r.Transport(), down: test.down}
				c := &Client{Host: "a.test", HTTP: &http.Client{Transport: n}, Attempts: 3}
				for _, u := range test.urls {
					c.URLs = append(c.URLs, mustURL(u))
				}
				_, _, err := c.HeadBlob(t.Context(), app, digest.FromString("x"))
				if !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				if !slices.Equal(n.tried, test.want) {
					t.Errorf("tried %v, want %v", n.tried, test.want)
				}
			})
		})
	}
}

func TestS14ClearTextIsNotTriedOnceTLSWorked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		n := &network{next: r.Transport(), down: map[string]error{}}
		c := &Client{Host: "a.test", HTTP: &http.Client{Transport: n}, Attempts: 2,
			URLs: []*url.URL{mustURL("https://a.test"), mustURL("http://A.test:5000"), mustURL("http://other.test")}}
		noError(t, c.Ping(t.Context()))
		n.down["https://a.test"] = errDown
		n.tried = nil
		noError(t, c.Ping(t.Context()))
		if want := []string{"https://a.test", "http://other.test"}; !slices.Equal(n.tried, want) {
			t.Errorf("tried %v, want %v", n.tried, want)
		}
	})
}

func TestADeadURLIsTriedLastForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		n := &network{next: r.Transport(), down: map[string]error{"https://a.test": errDown}}
		c := &Client{Host: "a.test", HTTP: &http.Client{Transport: n}, URLs: []*url.URL{mustURL("https://a.test"), mustURL("https://b.test")}}
		noError(t, c.Ping(t.Context()))
		noError(t, c.Ping(t.Context()))
		<-time.After(downFor + time.Second)
		delete(n.down, "https://a.test")
		noError(t, c.Ping(t.Context()))
		if want := []string{"https://a.test", "https://b.test", "https://b.test", "https://a.test"}; !slices.Equal(n.tried, want) {
			t.Errorf("tried %v, want %v", n.tried, want)
		}
	})
}

func TestASessionStaysWhereItWasOpened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		n := &network{next: r.Transport(), down: map[string]error{"https://a.test": errDown}}
		c := &Client{Host: "a.test", HTTP: &http.Client{Transport: n}, URLs: []*url.URL{mustURL("https://a.test"), mustURL("https://b.test")}}
		b, d := blobOf(1000)
		noError(t, push(t, c, b, d))
		if want := []string{"https://a.test", "https://b.test", "https://b.test"}; !slices.Equal(n.tried, want) {
			t.Errorf("tried %v, want %v", n.tried, want)
		}
	})
}

func TestABasePathIsKept(t *testing.T) {
	t.Parallel()
	var paths []string
	c := &Client{Host: "a.test", URLs: []*url.URL{mustURL("https://a.test/registry/")}}
	c.HTTP = &http.Client{Transport: upstreamtest.Transport(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		paths = append(paths, req.URL.Path)
	}))}
	noError(t, c.Ping(t.Context()))
	if !slices.Equal(paths, []string{"/registry/v2/"}) {
		t.Errorf("paths %v", paths)
	}
}

func TestWhatIsCalledOffSaysNothingAboutTheURL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Delay: time.Hour})
		n := &network{next: r.Transport()}
		c := &Client{Host: "a.test", HTTP: &http.Client{Transport: n}, URLs: []*url.URL{mustURL("https://a.test"), mustURL("https://b.test")}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		noError(t, c.Ping(t.Context()))
		if want := []string{"https://a.test", "https://a.test"}; !slices.Equal(n.tried, want) {
			t.Errorf("tried %v, want %v", n.tried, want)
		}
	})
}

// A certificate may fail where clear text was redirected to.
func TestClearTextIsTriedAgainAfterACertificateElsewhereFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const clear = "http://a.test:5000"
		n := &network{next: (&upstreamtest.Registry{}).Transport(), down: map[string]error{clear: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}}
		c := &Client{Host: "a.test", HTTP: &http.Client{Transport: n}, URLs: []*url.URL{mustURL(clear)}}
		err := c.Ping(t.Context())
		if !errors.Is(err, oci.ErrUpstream) || Unreachable(err) || !strings.Contains(err.Error(), "could not be trusted") || !strings.Contains(err.Error(), "ca_file") {
			t.Errorf("error %v, want one that names ca_file", err)
		}
		delete(n.down, clear)
		noError(t, c.Ping(t.Context()))
	})
}
