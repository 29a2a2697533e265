package upstream

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

type brokenDial struct{ err error }

func (b brokenDial) RoundTrip(*http.Request) (*http.Response, error) { return nil, b.err }

func TestAMachineThatIsCutOffSaysSoWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for name, c := range map[string]struct {
		err   error
		heard bool
		quick bool
	}{
		"no network":                       {dial(syscall.ENETUNREACH), true, true},
		"no way to the host":               {dial(syscall.EHOSTUNREACH), true, true},
		"no such name":                     {dial(&net.DNSError{Err: "no such host", IsNotFound: true}), true, true},
		"nobody listens":                   {dial(syscall.ECONNREFUSED), false, true},
		"nobody listens any more":          {dial(syscall.ECONNREFUSED), true, false},
		"a connection that broke":          {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, false, false},
		"a name server that does not help": {dial(&net.DNSError{Err: "timeout", IsTimeout: true}), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := &Client{Host: "a.test", URLs: []*url.URL{{Scheme: "https", Host: "a.test"}}, HTTP: &http.Client{Transport: brokenDial{c.err}}}
				if c.heard {
					client.heard = time.Now()
				}
				began := time.Now()
				_, _, err := client.HeadManifest(t.Context(), oci.Repo{Host: "a.test", Name: "x"}, "v1", nil)
				if !errors.Is(err, oci.ErrUpstream) || !strings.Contains(err.Error(), "could not be reached") || !Unreachable(err) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); (took <= 2*time.Second) != c.quick || took < offlineFor {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// unplugged lets requests through until there is no network.
type unplugged struct {
	http.RoundTripper
	now bool
}

func (c *unplugged) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.now {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ENETUNREACH}
	}
	return c.RoundTripper.RoundTrip(r)
}

func TestAnUploadThatGoesOnWithoutANetworkSaysSoAndKeepsItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 1 << 20})
		client, network := newClient(r), &unplugged{RoundTripper: r.Transport()}
		client.HTTP, client.Attempts = &http.Client{Transport: network}, 1
		b, d := blobOf(2 << 20)
		u, _, err := client.StartUpload(t.Context(), app, d, "")
		noError(t, err)
		if err := u.Send(t.Context(), int64(len(b)), opener(b)); err == nil {
			t.Fatal("the upload did not break off")
		}
		network.now, client.Attempts = true, 0
		began := time.Now()
		if err := u.Send(t.Context(), int64(len(b)), opener(b)); !errors.Is(err, oci.ErrUpstream) || !Unreachable(err) {
			t.Errorf("without a network: %v", err)
		}
		if took := time.Since(began); took > offlineFor {
			t.Errorf("it was said after %s", took)
		}
		network.now = false
		noError(t, u.Send(t.Context(), int64(len(b)), opener(b)))
		stored(t, r, b, d)
		if got := r.Bytes(); got != int64(len(b)) {
			t.Errorf("%d bytes were sent of %d", got, len(b))
		}
	})
}
