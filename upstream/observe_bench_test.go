package upstream

import (
	"context"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/upstream/upstreamtest"
)

// What it costs a request to be observed, and counted.
func BenchmarkHead(b *testing.B) {
	metrics := NewMetrics(func(host string) string { return host })
	for _, c := range []struct {
		name    string
		observe func(context.Context, Exchange)
	}{
		{"unobserved", nil},
		{"counted", func(_ context.Context, x Exchange) { metrics.Observe(x) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := &upstreamtest.Registry{}
			client := newClient(r)
			client.HTTP, client.Observe = &http.Client{Transport: Wire{r.Transport()}}, c.observe
			d := digest.FromString("nothing")
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := client.HeadBlob(b.Context(), app, d); err != nil {
					b.Fatal(err)
				}
				r.Reset()
			}
		})
	}
}
