package tests

import (
	"context"
	"io"
	"net/http"
	"strings"
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
		r.Body = s.body(r)
	}
	return s.RoundTripper.RoundTrip(r)
}

// body is that of a request, slowly.
func (s slowLink) body(r *http.Request) io.ReadCloser {
	return &slowBody{ReadCloser: r.Body, ctx: r.Context(), rate: s.rate, began: time.Now()}
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

// slowRate and slowSize are the bytes a second of the link and the bytes of the layer: clients that give up 30 seconds after
// the end of a request's body (containerd/containerd#13682) would, since the link takes longer than that.
// PUSHPROXY_TESTS_RATE=2500000 PUSHPROXY_TESTS_LAYER=2147483648 PUSHPROXY_TESTS_PATIENCE=1800 is 2 GiB over 20 Mbit/s.
const slowRate, slowSize = 1 << 20, 50 << 20

// TestContainerdPushesALargeLayerOverASlowLink: containerd since 2.3 gives up, and what takes longer must still arrive.
func TestContainerdPushesALargeLayerOverASlowLink(t *testing.T) {
	t.Parallel()
	s := startSlow(t)
	run, _ := startContainerd(t, newer(t, "containerd"), newer(t, "ctr"))
	run("images", "import", "--local", "--no-unpack", "--base-name", "slow", s.archive)
	s.arrives(t, func(ref string) { run("images", "push", "--local", "--plain-http", ref, "slow:v1") })
}

// TestDocker29PushesALargeLayerOverASlowLink: its image store is containerd's, and so is the way it pushes.
func TestDocker29PushesALargeLayerOverASlowLink(t *testing.T) {
	t.Parallel()
	s := startSlow(t)
	_, containerd := startContainerd(t, newer(t, "containerd"), newer(t, "ctr"))
	c := docker{program: system(t, "docker"), home: t.TempDir()}
	// The packaged docker speaks an older API than this dockerd asks for.
	socket := c.daemonOf(t, "", []string{newer(t, "dockerd"), "--containerd", containerd}, "DOCKER_MIN_API_VERSION=1.24")
	c.run(t, socket, "load", "-q", "-i", s.archive)
	if v := c.run(t, socket, "version", "--format={{.Server.Version}} {{.Server.APIVersion}}"); !strings.Contains(v, "1.5") {
		t.Fatalf("this is not the API of Docker 29: %s", v)
	}
	s.arrives(t, func(ref string) {
		c.run(t, socket, "tag", s.digest, ref)
		c.run(t, socket, "push", ref)
	})
}

// slow is a registry behind a slow link, and an image whose push takes longer than clients wait.
type slow struct {
	rig     *rig
	reg     *parts.Registry
	rec     *recorder
	archive string
	digest  string
	size    int
}

func startSlow(t *testing.T) slow {
	t.Helper()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, slowLink{http.DefaultTransport, fromEnvironment(t, "PUSHPROXY_TESTS_RATE", slowRate)})
	size := fromEnvironment(t, "PUSHPROXY_TESTS_LAYER", slowSize)
	l := newLayout(t, t.TempDir())
	img := l.tag("v1", l.image("amd64", l.layer(90, size), l.layer(91, 2_000_000)))
	return slow{startRig(t, rec.URL, nil), reg, rec, tarOf(t, l.dir), img.Digest, size}
}

// arrives pushes the image, and checks that all of it arrived and was sent once.
func (s slow) arrives(t *testing.T, push func(ref string)) {
	t.Helper()
	began := time.Now()
	push(s.rig.ref("acme/slow", "v1"))
	if took := time.Since(began); took < 40*time.Second {
		t.Fatalf("the push took %s: the link was not slow enough to show anything", took)
	}
	wantEqual(t, "the upstream's digest", upstreamAPI(s.reg).pull(t, "acme/slow", "v1"), s.digest)
	if n := s.rec.requests().bodies().sum(); n > int64(s.size+s.size/10+2_000_000) {
		t.Errorf("%d bytes went upstream for a layer of %d", n, s.size)
	}
}
