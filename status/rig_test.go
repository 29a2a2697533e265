package status

import (
	"context"
	"crypto/sha256"
	"encoding/json"
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

const upstreamHost = "registry.test"

// rig is the status room over a real forwarder, its stores in memory and the
// fake registry, in fake time.
type rig struct {
	t       *testing.T
	reg     *upstreamtest.Registry
	cache   *blobcache.Cache
	meta    *metadata.DB
	forward *forward.Forwarder
	queue   *forward.Queue
	server  *Server
	tracker *Tracker
	targets map[string]*forward.Target
	stop    func()

	mu      sync.Mutex
	answers []string // "METHOD path-kind status" of every request, as the upstream answered them
}

// bubble runs a test with a rig in fake time; file is where finished pushes are
// kept, or empty.
func bubble(t *testing.T, file string, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, file)
		test(t, r)
		r.end()
	})
}

func newRig(t *testing.T, file string) *rig {
	t.Helper()
	store := blobcache.NewMemory()
	r := &rig{
		t: t, reg: &upstreamtest.Registry{}, cache: blobcache.New(store, store), meta: &metadata.DB{KV: &metadata.Memory{}}, targets: map[string]*forward.Target{},
	}
	r.start(file)
	return r
}

// start is the start of the program; after end it is the next one.
func (r *rig) start(file string) {
	r.t.Helper()
	r.targets = map[string]*forward.Target{}
	r.forward = forward.New(r.cache, r.meta)
	r.queue = &forward.Queue{Forward: r.forward, Target: func(_ context.Context, principal, _ string) (*forward.Target, error) { return r.target(principal), nil }}
	if _, err := r.queue.Open(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tracker, err := NewTracker(ctx, r.forward, r.queue, file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.tracker = tracker
	r.server = &Server{Version: "v1", Instance: "here", Started: time.Now(), Tracker: tracker, Queue: r.queue, Owner: "local"}
	var tasks sync.WaitGroup
	tasks.Go(func() { tracker.Run(ctx) })
	working, rest := context.WithCancel(ctx)
	tasks.Go(func() { r.queue.Run(working) })
	r.stop = func() {
		rest()
		soon, done := context.WithTimeout(context.Background(), time.Second)
		defer done()
		_ = r.forward.Close(soon)
		cancel()
		tasks.Wait()
	}
}

func (r *rig) end() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// answer notes what the upstream answered.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// ServeHTTP makes the rig the upstream.
func (r *rig) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a := &answered{w, http.StatusOK}
	whole := false
	defer func() {
		if !whole {
			a.status = 0 // the connection was cut
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.answers = append(r.answers, opOf(req)+" "+http.StatusText(a.status))
	}()
	r.reg.ServeHTTP(a, req)
	whole = true
}

// opOf is the op of the step that a request has to be told as.
func opOf(req *http.Request) string {
	switch {
	case req.URL.Path == "/v2/" || req.URL.Path == "/token":
		return "token"
	case strings.Contains(req.URL.Path, "/manifests/"):
		return "manifest"
	case strings.Contains(req.URL.Path, "/tags/"):
		return "tags"
	case req.Method == http.MethodHead:
		return "head"
	case req.URL.Query().Get("mount") != "":
		return "mount"
	case req.Method == http.MethodPost:
		return "start"
	}
	return "upload"
}

// target is the upstream as a principal reaches it.
func (r *rig) target(principal string) *forward.Target {
	if t := r.targets[principal]; t != nil {
		return t
	}
	t := &forward.Target{
		Principal: principal, Host: upstreamHost,
		Client: &upstream.Client{
			Host: upstreamHost, URLs: []*url.URL{{Scheme: "https", Host: upstreamHost}},
			HTTP:     &http.Client{Transport: upstream.Wire{Base: upstreamtest.Transport(r)}},
			Describe: func(context.Context, oci.Repo) string { return principal + " from a test" },
			Notify:   func(ctx context.Context, retry upstream.Retry) { r.forward.Retrying(ctx, principal, retry) },
			Observe:  func(ctx context.Context, x upstream.Exchange) { r.forward.Asked(ctx, principal, x) },
		},
		Owner: func(context.Context, oci.Repo) (metadata.Owner, error) { return sha256.Sum256([]byte(principal)), nil },
	}
	r.targets[principal] = t
	return t
}

func repoOf(name string) oci.Repo { return oci.Repo{Host: upstreamHost, Name: name} }

// receive is what the registry door does with a blob that a client sends.
func (r *rig) receive(principal, name string, content []byte) {
	r.t.Helper()
	r.sending(principal, name, content)()
}

// sending is receive up to the last byte; the function that it returns is the
// rest.
func (r *rig) sending(principal, name string, content []byte) (finish func()) {
	r.t.Helper()
	u, err := r.cache.Begin(r.t.Context(), digest.SHA256, principal)
	r.must(err)
	d := digest.FromBytes(content)
	in := r.forward.Incoming(r.target(principal), repoOf(name), u.ID(), "docker/29 (test)", d, 0, int64(len(content)))
	half := len(content) / 2
	_, err = u.Write(content[:half])
	r.must(err)
	in.Got(int64(half))
	return func() {
		_, err = u.Write(content[half:])
		r.must(err)
		r.must(u.Commit(r.t.Context(), d))
		r.must(r.meta.Grant(r.t.Context(), principal, d))
		in.Got(int64(len(content)))
		in.End(d, int64(len(content)), "")
		r.forward.Start(r.target(principal), repoOf(name), d, "", u.ID())
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// image is a manifest of blobs, the first its config.
func (r *rig) image(blobs ...[]byte) oci.Manifest {
	list := []oci.Descriptor{}
	for _, b := range blobs {
		list = append(list, oci.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(b), Size: int64(len(b))})
	}
	return r.manifest(oci.MediaTypeOCIManifest, map[string]any{"config": list[0], "layers": list[1:]})
}

// index is a manifest of manifests.
func (r *rig) index(children ...oci.Manifest) oci.Manifest {
	list := []oci.Descriptor{}
	for _, m := range children {
		list = append(list, oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest(digest.SHA256), Size: int64(len(m.Raw))})
	}
	return r.manifest(oci.MediaTypeOCIIndex, map[string]any{"manifests": list})
}

func (r *rig) manifest(mediaType string, fields map[string]any) oci.Manifest {
	r.t.Helper()
	fields["schemaVersion"], fields["mediaType"] = 2, mediaType
	raw, err := json.Marshal(fields)
	r.must(err)
	m, err := oci.ParseManifest(mediaType, raw)
	r.must(err)
	return m
}

func (r *rig) job(principal, name, tag string, m oci.Manifest) forward.Job {
	return forward.Job{Target: r.target(principal), Repo: repoOf(name), Manifest: m, Digest: m.Digest(digest.SHA256), Tag: tag}
}

// put puts a manifest and waits for it.
func (r *rig) put(principal, name, tag string, m oci.Manifest) (id string, err error) {
	r.t.Helper()
	p, err := r.forward.Submit(r.t.Context(), r.job(principal, name, tag, m))
	r.must(err)
	_, err = p.Wait(r.t.Context())
	synctest.Wait()
	return p.ID, err
}

// pushed is put for what has to succeed.
func (r *rig) pushed(principal, name, tag string, m oci.Manifest) Push {
	r.t.Helper()
	id, err := r.put(principal, name, tag, m)
	r.must(err)
	return r.know(id)
}

// brings receives a blob and puts the manifest of the image that it is.
func (r *rig) brings(principal, name, tag string, blob []byte) (id string) {
	r.t.Helper()
	r.receive(principal, name, blob)
	return r.pushed(principal, name, tag, r.image(blob)).ID
}

var all = Viewer{Principal: "local", All: true}

// know returns what is known of a push.
func (r *rig) know(id string) Push {
	r.t.Helper()
	p, ok := r.server.push(all, id)
	if !ok {
		r.t.Fatalf("push %s is not known", id)
	}
	return p
}

// now returns what is under way.
func (r *rig) now() []Push {
	r.t.Helper()
	synctest.Wait()
	return r.server.snapshot(all).Pushes
}

// blobStates returns the states of a push's blobs.
func blobStates(p Push) (list []BlobState) {
	for _, b := range p.Blobs {
		list = append(list, b.State)
	}
	return list
}

// asked returns what the upstream answered so far, sorted, and forgets it.
func (r *rig) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.answers
	r.answers = nil
	slices.Sort(list)
	return list
}

// told returns what a push says was asked, sorted.
func told(pushes ...Push) (list []string) {
	for _, p := range pushes {
		for _, s := range p.Steps {
			if s.Op != "decide" {
				list = append(list, s.Op+" "+http.StatusText(s.Code))
			}
		}
	}
	slices.Sort(list)
	return list
}

func content(name string, n int) []byte {
	return []byte(strings.Repeat(name+" ", n/(len(name)+1)+1)[:n])
}
