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
				if took := time.Since(began); (took <= 2*time.Second) != c.quick {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}
