package forward

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
	"pushproxy/upstream/upstreamtest"
)

const (
	host  = "registry.test"
	large = 100<<10 + 1 // worth a look before it is sent, and three mounts
	tiny  = 100         // worth neither
)

// rig is a Forwarder between real stores in memory and the fake registry.
type rig struct {
	*Forwarder
	t     *testing.T
	reg   *upstreamtest.Registry
	store *blobcache.Memory
	base  http.RoundTripper
	url   *url.URL

	mu    sync.Mutex
	names map[string]string // digests as tests call them
}

// newRig puts an HTTP server before reg; memoryRig no network, for fake time.
func newRig(t *testing.T, reg *upstreamtest.Registry) *rig {
	t.Helper()
	server := httptest.NewServer(reg)
	t.Cleanup(server.Close)
	r := memoryRig(t, reg)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	r.base = transport
	r.url, _ = url.Parse(server.URL)
	return r
}

func memoryRig(t *testing.T, reg *upstreamtest.Registry) *rig {
	t.Helper()
	store := blobcache.NewMemory()
	r := &rig{
		t: t, reg: reg, store: store, base: reg.Transport(), url: &url.URL{Scheme: "https", Host: host}, names: map[string]string{},
		Forwarder: New(blobcache.New(store, store), &metadata.DB{KV: &metadata.Memory{}}),
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Errorf("the forwarder does not come to rest: %v", err)
		}
	})
	return r
}

// as is a transport that says whose credential a request carries.
type as struct {
	principal string
	base      http.RoundTripper
}

func (a as) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", a.principal)
	return a.base.RoundTrip(req)
}

// target is the upstream as principal reaches it.
func (r *rig) target(principal string) *Target {
	return &Target{
		Principal: principal, Host: host,
		Client: &upstream.Client{
			Host: host, URLs: []*url.URL{r.url}, HTTP: &http.Client{Transport: upstream.Wire{Base: as{principal, r.base}}}, Attempts: 1,
			Notify:  func(ctx context.Context, retry upstream.Retry) { r.Retrying(ctx, principal, retry) },
			Observe: func(ctx context.Context, x upstream.Exchange) { r.Asked(ctx, principal, x) },
		},
		Owner: func(context.Context, oci.Repo) (metadata.Owner, error) { return ownerOf(principal), nil },
	}
}

func ownerOf(principal string) metadata.Owner { return sha256.Sum256([]byte(principal)) }

func repo(name string) oci.Repo { return oci.Repo{Host: host, Name: name} }

// blob returns size bytes that follow from its name.
func (r *rig) blob(name string, size int) []byte {
	b := bytes.Repeat([]byte(name+" "), size/(len(name)+1)+1)[:size]
	r.call(digest.FromBytes(b), name)
	return b
}

// call gives a digest the name that request lists use.
func (r *rig) call(d digest.Digest, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[d.String()] = name
}

// give makes a principal have blobs, as if it had uploaded them.
func (r *rig) give(principal string, blobs ...[]byte) {
	r.t.Helper()
	for _, b := range blobs {
		u, err := r.cache.Begin(r.t.Context(), digest.SHA256, principal)
		noError(r.t, err)
		_, err = u.Write(b)
		noError(r.t, err)
		noError(r.t, u.Commit(r.t.Context(), digest.FromBytes(b)))
		noError(r.t, r.meta.Grant(r.t.Context(), principal, digest.FromBytes(b)))
	}
}

// given is a blob that a principal has.
func (r *rig) given(principal, name string, size int) []byte {
	r.t.Helper()
	b := r.blob(name, size)
	r.give(principal, b)
	return b
}

// image is a manifest of blobs: the first is its config.
func (r *rig) image(blobs ...[]byte) oci.Manifest {
	r.t.Helper()
	descriptors := []oci.Descriptor{}
	for _, b := range blobs {
		descriptors = append(descriptors, oci.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(b), Size: int64(len(b))})
	}
	return r.manifest(oci.MediaTypeOCIManifest, map[string]any{"config": descriptors[0], "layers": descriptors[1:]})
}

// index is a manifest of manifests.
func (r *rig) index(children ...oci.Manifest) oci.Manifest {
	r.t.Helper()
	descriptors := []oci.Descriptor{}
	for i, m := range children {
		d := m.Digest(digest.SHA256)
		r.call(d, fmt.Sprintf("child%d", i+1))
		descriptors = append(descriptors, oci.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(m.Raw))})
	}
	return r.manifest(oci.MediaTypeOCIIndex, map[string]any{"manifests": descriptors})
}

func (r *rig) manifest(mediaType string, fields map[string]any) oci.Manifest {
	r.t.Helper()
	fields["schemaVersion"], fields["mediaType"] = 2, mediaType
	raw, err := json.Marshal(fields)
	noError(r.t, err)
	m, err := oci.ParseManifest(mediaType, raw)
	noError(r.t, err)
	return m
}

func (r *rig) job(principal, name, tag string, m oci.Manifest) Job {
	return Job{Target: r.target(principal), Repo: repo(name), Manifest: m, Digest: m.Digest(digest.SHA256), Tag: tag}
}

// submit begins a push.
func (r *rig) submit(ctx context.Context, job Job) *Push {
	r.t.Helper()
	p, err := r.Submit(ctx, job)
	noError(r.t, err)
	return p
}

// succeeds waits for a push that has to succeed.
func (r *rig) succeeds(p *Push) {
	r.t.Helper()
	_, err := p.Wait(r.t.Context())
	noError(r.t, err)
}

// push pushes and waits.
func (r *rig) push(principal, name, tag string, m oci.Manifest) (Result, error) {
	r.t.Helper()
	return r.do(r.job(principal, name, tag, m))
}

func (r *rig) do(job Job) (Result, error) {
	p, err := r.Submit(r.t.Context(), job)
	if err != nil {
		return Result{}, err
	}
	return p.Wait(r.t.Context())
}

// pushed pushes, and fails the test where that does not succeed.
func (r *rig) pushed(principal, name, tag string, m oci.Manifest) Result {
	r.t.Helper()
	result, err := r.push(principal, name, tag, m)
	noError(r.t, err)
	if _, _, ok := r.reg.Manifest(name, tag); !ok {
		r.t.Fatalf("the push of %s:%s succeeded but the upstream does not have it", name, tag)
	}
	return result
}

var uploadPath = regexp.MustCompile(`/blobs/uploads/.*$`)

// requests returns what the fake received since the last call, in short:
// "HEAD app layer", "POST app", "POST app mount layer from base", "PUT app layer",
// "DELETE app upload", "PUT app:v1".
func (r *rig) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := func(d string) string {
		if n, ok := r.names[d]; ok {
			return n
		}
		return d
	}
	var list []string
	for _, q := range r.reg.Log() {
		path := strings.TrimPrefix(q.Path, "/v2/")
		switch {
		case uploadPath.MatchString(path):
			what := uploadPath.ReplaceAllString(path, "")
			switch {
			case q.Query.Get("mount") != "":
				what += " mount " + name(q.Query.Get("mount")) + " from " + q.Query.Get("from")
			case q.Query.Get("digest") != "":
				what += " " + name(q.Query.Get("digest"))
			case q.Method == http.MethodDelete:
				what += " upload"
			}
			path = what
		case strings.Contains(path, "/blobs/"):
			repo, d, _ := strings.Cut(path, "/blobs/")
			path = repo + " " + name(d)
		case strings.Contains(path, "/manifests/"):
			repo, reference, _ := strings.Cut(path, "/manifests/")
			path = repo + ":" + name(reference)
		}
		list = append(list, q.Method+" "+path)
	}
	r.reg.Reset()
	return list
}

// saw fails unless the fake received exactly the wanted requests since it was
// asked last, in any order; the last one must come last.
func (r *rig) saw(want ...string) {
	r.t.Helper()
	got := r.requests()
	if len(got) > 0 && len(want) > 0 && got[len(got)-1] != want[len(want)-1] {
		r.t.Errorf("the last request is %q, want %q", got[len(got)-1], want[len(want)-1])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.t.Errorf("the upstream saw\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// forgetful makes the proxy forget that the repository holds the blobs.
func (r *rig) forgetful(principal, name string, blobs ...[]byte) {
	r.t.Helper()
	for _, b := range blobs {
		noError(r.t, r.forget(r.t.Context(), ownerOf(principal), repo(name), digest.FromBytes(b)))
	}
}

// hows returns what became of a result's blobs, in order.
func hows(result Result) []How {
	var list []How
	for _, o := range result.Blobs {
		list = append(list, o.How)
	}
	return list
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
