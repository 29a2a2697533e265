package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
	"pushproxy/upstream/upstreamtest"
)

// rig is a door over real stores and a real forwarder in front of two fake
// registries, reached over connections in memory, so that time may be fake.
type rig struct {
	t        *testing.T
	up       *upstreamtest.Registry // registry.test
	other    *upstreamtest.Registry // corp.test, alias corp, prefix team
	hook     func(http.ResponseWriter, *http.Request) bool
	attempts int
	bodies   blobcache.Bodies
	memory   *blobcache.Memory
	kv       *metadata.Memory
	door     *Registry
	log      *logged
	net      *upstreamtest.Listener
	client   *http.Client
}

const doorHost, app = "localhost:5001", "/v2/registry.test/acme/app"

func newRig(t *testing.T) *rig {
	t.Helper()
	memory := blobcache.NewMemory()
	r := &rig{
		t: t, up: &upstreamtest.Registry{}, other: &upstreamtest.Registry{}, attempts: 1,
		bodies: memory, memory: memory, kv: &metadata.Memory{}, log: &logged{},
	}
	r.start()
	return r
}

// bubble runs a test in fake time.
func bubble(t *testing.T, test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// After all else: the server takes a moment to close a connection.
		t.Cleanup(func() { time.Sleep(3 * time.Minute) })
		test(t, newRig(t))
	})
}

// start opens a door over the rig's stores; after a first one it is what a
// restart of the program is.
func (r *rig) start() {
	r.t.Helper()
	cache, meta := blobcache.New(r.bodies, r.memory), &metadata.DB{KV: r.kv}
	forwarder := forward.New(cache, meta)
	guard, err := NewGuard([]string{"127.0.0.1:5001"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.door = &Registry{
		Routes: &Routes{Upstreams: []Upstream{{Host: "registry.test"}, {Host: "corp.test", Aliases: []string{"corp"}, Prefix: "team"}}},
		Guard:  guard, Principals: &Principals{Auth: AuthNone}, Target: r.target, Cache: cache, Meta: meta, Forward: forwarder,
		Limits: NewLimits(0, 0, 0), Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	listener := upstreamtest.Listen(5001)
	r.net = listener
	server := &http.Server{Handler: r.door, ErrorLog: slog.NewLogLogger(r.door.Log.Handler(), slog.LevelDebug)}
	limited := NewSlots(1000, 0, nil, r.door.Log).Limit(listener)
	go func() { _ = server.Serve(limited) }()
	transport := &http.Transport{DialContext: listener.Dial, DisableCompression: true}
	r.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r.t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = forwarder.Close(ctx)
	})
}

func (r *rig) target(_ context.Context, principal, host string) (*forward.Target, error) {
	registry := r.up
	if host == "corp.test" {
		registry = r.other
	}
	transport := upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.hook == nil || !r.hook(w, req) {
			registry.ServeHTTP(w, req)
		}
	}))
	return &forward.Target{
		Principal: principal, Host: host,
		Client: &upstream.Client{
			Host: host, URLs: []*url.URL{{Scheme: "https", Host: host}}, HTTP: &http.Client{Transport: transport}, Attempts: r.attempts,
			Describe: func(context.Context, oci.Repo) string { return "a test's credential" },
		},
		Owner: func(context.Context, oci.Repo) (metadata.Owner, error) { return sha256.Sum256([]byte(principal)), nil },
	}, nil
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

// try sends a request; headers are "Name: value". The body is what
// http.NewRequest takes.
func (r *rig) try(method, path string, body io.Reader, headers ...string) (reply, error) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+doorHost+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Add(name, value)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, raw, err}, nil
}

// want sends a request and fails the test at any other status.
func (r *rig) want(status int, method, path string, body []byte, headers ...string) reply {
	r.t.Helper()
	got, err := r.try(method, path, bytes.NewReader(body), headers...)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	if got.status != status {
		r.t.Fatalf("%s %s: status %d, want %d: %s", method, path, got.status, status, got.body)
	}
	return got
}

// code returns the error code of an answer, and fails unless the answer has the
// specification's format.
func (r *rig) code(got reply) (code, message string) {
	r.t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(got.body, &body); err != nil || len(body.Errors) != 1 || got.header.Get("Content-Type") != "application/json" {
		r.t.Fatalf("error body %q (%v, %s) is not in the specification's format", got.body, err, got.header.Get("Content-Type"))
	}
	return body.Errors[0].Code, body.Errors[0].Message
}

// begin opens an upload and returns its location.
func (r *rig) begin(name string) string {
	r.t.Helper()
	return r.want(http.StatusAccepted, "POST", name+"/blobs/uploads/", nil).header.Get("Location")
}

// pushBlob pushes a blob as containerd does.
func (r *rig) pushBlob(name string, blob []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(blob)
	r.want(http.StatusCreated, "PUT", r.begin(name)+"?digest="+d.String(), blob)
	return d
}

// blobOf returns n bytes that look random, the same each time.
func blobOf(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// image returns the manifest of an image of the blobs, the first its config.
func image(blobs ...[]byte) []byte {
	var parts []string
	for _, b := range blobs {
		parts = append(parts, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromBytes(b), len(b)))
	}
	return []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, oci.MediaTypeOCIManifest, parts[0], strings.Join(parts[1:], ",")))
}

// flags are headers, name to value; "" for one that must be absent.
type flags map[string]string

func (r *rig) hasHeaders(got reply, want flags) {
	r.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have := got.header.Get(name); have != want[name] {
			r.t.Errorf("header %s is %q, want %q", name, have, want[name])
		}
	}
}

// raw sends bytes as they are on a connection of their own and returns the
// status line of what comes back.
func (r *rig) raw(text string) string {
	r.t.Helper()
	conn, err := r.net.Dial(r.t.Context(), "", "")
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, text) }()
	buf := make([]byte, 512)
	n, err := io.ReadAtLeast(conn, buf, 12)
	if err != nil {
		r.t.Fatalf("%q: %v", text, err)
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\r\n")
	return line
}

// logged is a log that can be read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// failingTarget is a Target that has none.
func failingTarget(context.Context, string, string) (*forward.Target, error) {
	return nil, oci.ErrDenied.With("the credential of this upstream cannot be read")
}
