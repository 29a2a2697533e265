package tests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// slowLink lets the bytes of requests through at a rate, in bytes a second.
type slowLink struct {
	http.RoundTripper
	rate int
}

func (s slowLink) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = &slowBody{ReadCloser: r.Body, ctx: r.Context(), rate: s.rate, began: time.Now()}
	}
	return s.RoundTripper.RoundTrip(r)
}

type slowBody struct {
	io.ReadCloser
	ctx   context.Context
	rate  int
	began time.Time
	read  int
}

func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.rate/20)])
	b.read += n
	due := b.began.Add(time.Duration(b.read) * time.Second / time.Duration(b.rate))
	select {
	case <-time.After(time.Until(due)):
	case <-b.ctx.Done():
	}
	return n, err
}

// TestContainerdPushesALargeLayerOverASlowLink: containerd since 2.3 gives up 30 seconds after the end of a request's body
// (containerd/containerd#13682). What takes the link longer than that must still arrive.
func TestContainerdPushesALargeLayerOverASlowLink(t *testing.T) {
	t.Parallel()
	const rate, size = 1 << 20, 50 << 20
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, slowLink{http.DefaultTransport, rate})
	r := startRig(t, rec.URL, nil)

	l := newLayout(t, t.TempDir())
	img := l.tag("v1", l.image("amd64", l.layer(90, size), l.layer(91, 2_000_000)))
	run, _ := startContainerd(t, newer(t, "containerd"), newer(t, "ctr"))
	run("images", "import", "--local", "--no-unpack", "--base-name", "slow", tarOf(t, l.dir))
	began := time.Now()
	run("images", "push", "--local", "--plain-http", r.ref("acme/slow", "v1"), "slow:v1")
	if took := time.Since(began); took < 40*time.Second {
		t.Fatalf("the push took %s: the link was not slow enough to show anything", took)
	}
	wantEqual(t, "the upstream's digest", upstreamAPI(reg).pull(t, "acme/slow", "v1"), img.Digest)
	if n := rec.requests().bodies().sum(); n > size+size/10+2_000_000 {
		t.Errorf("%s went upstream for a layer of %s", fmt.Sprint(n), fmt.Sprint(size))
	}
}
