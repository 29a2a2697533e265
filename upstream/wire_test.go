package upstream

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"pushproxy/upstream/upstreamtest"
)

// The same over real connections: what net/http does with bodies, early answers
// and connections that are cut differs from any fake.
func TestFaultsOverRealConnections(t *testing.T) {
	t.Parallel()
	b, d := blobOf(3 << 20)
	tests := map[string]struct {
		registry misbehave
		faults   []upstreamtest.Fault
	}{
		"nothing goes wrong":                         {},
		"cut in the middle":                          {faults: []upstreamtest.Fault{{Method: "PUT", Reset: true, ResetAt: 2 << 20}}},
		"cut twice":                                  {faults: []upstreamtest.Fault{{Method: "PUT", Reset: true, ResetAt: 1 << 20}, {Method: "PATCH", Reset: true, ResetAt: 1 << 20}}},
		"the answer is lost":                         {faults: []upstreamtest.Fault{{Method: "PUT", Lost: true}}},
		"an early 503 without reading the body":      {faults: []upstreamtest.Fault{{Method: "PUT", Status: 503}}},
		"an early 404, so that the body is streamed": {registry: func(r *upstreamtest.Registry) { r.RefusePut = 404 }},
		"an early 413, so that it goes in chunks":    {registry: func(r *upstreamtest.Registry) { r.MaxBody = 2 << 20 }},
		"state in locations":                         {registry: func(r *upstreamtest.Registry) { r.State, r.RefusePut = true, 405 }},
	}
	for name, test := range tests {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", name, h2), func(t *testing.T) {
				t.Parallel()
				r := &upstreamtest.Registry{}
				if test.registry != nil {
					test.registry(r)
				}
				r.Inject(test.faults...)
				server := httptest.NewUnstartedServer(r)
				server.EnableHTTP2 = h2
				server.StartTLS()
				defer server.Close()
				transport := NewTransport(TransportOptions{Trust: func(string) Trust { return TrustNamed }})
				transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig
				defer transport.CloseIdleConnections()
				c := &Client{Host: "registry.test", URLs: []*url.URL{mustURL(server.URL)}, HTTP: &http.Client{Transport: transport}}
				noError(t, push(t, c, b, d))
				stored(t, r, b, d)
			})
		}
	}
}

type misbehave func(*upstreamtest.Registry)
