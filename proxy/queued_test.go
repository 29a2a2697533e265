package proxy

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/forward"
	"pushproxy/oci"
)

// queueing gives a rig's door a queue that runs until stop.
func (r *rig) queueing(async func(oci.Repo) bool) (stop func()) {
	r.t.Helper()
	q := &forward.Queue{Forward: r.door.Forward, Target: r.target}
	if _, err := q.Open(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.door.Queue, r.door.Async = q, async
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { q.Run(ctx) })
	stop = func() {
		cancel()
		ended.Wait()
	}
	r.t.Cleanup(stop)
	return stop
}

// down makes the upstream answer 503 until the returned function is called.
func (r *rig) down() (up func()) {
	var isUp atomic.Bool
	r.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		if isUp.Load() {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	return func() { isUp.Store(true) }
}

func TestAQueuedPushIsAnsweredAtOnceSaysSoAndCanBeReadBack(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]struct {
		async         bool
		query, header string
	}{
		"as the route says":  {async: true},
		"as the query says":  {query: "?pushproxy-mode=async"},
		"as the header says": {header: "Pushproxy-Mode: async"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				up := r.down()
				r.queueing(func(repo oci.Repo) bool { return ask.async && repo.Name == "acme/app" })
				config, layer := []byte(`{}`), blobOf(100<<10)
				r.pushBlob(app, config)
				r.pushBlob(app, layer)
				raw := image(config, layer)
				d := digest.FromBytes(raw)
				headers := []string{ociType}
				if ask.header != "" {
					headers = append(headers, ask.header)
				}
				began := time.Now()
				got := r.want(201, "PUT", app+"/manifests/v1"+ask.query, raw, headers...)
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %s", took)
				}
				r.hasHeaders(got, flags{"Location": app + "/manifests/" + d.String(), "Docker-Content-Digest": d.String()})
				if w := got.header.Get("Warning"); !strings.HasPrefix(w, `299 - "queued: registry.test does not have it yet; pushproxy wait registry.test/acme/app:v1 `) || len(w) > 4096 {
					t.Errorf("Warning is %q", w)
				}
				if got.header.Get("Pushproxy-Job") != r.door.Queue.Jobs()[0].ID {
					t.Errorf("Pushproxy-Job is %q", got.header.Get("Pushproxy-Job"))
				}
				for _, reference := range []string{"v1", d.String()} {
					r.want(200, "HEAD", app+"/manifests/"+reference, nil)
					back := r.want(200, "GET", app+"/manifests/"+reference, nil)
					if string(back.body) != string(raw) || back.header.Get("Content-Type") != oci.MediaTypeOCIManifest {
						t.Errorf("%s reads back as %s %q", reference, back.header.Get("Content-Type"), back.body)
					}
				}
				if back := r.want(200, "GET", app+"/blobs/"+digest.FromBytes(layer).String(), nil); string(back.body) != string(layer) {
					t.Error("the layer reads back as something else")
				}
				up()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if stored, _, ok := r.up.Manifest("acme/app", "v1"); !ok || string(stored) != string(raw) {
					t.Errorf("the upstream has %q", stored)
				}
			})
		})
	}
}

func TestAClientMayWaitThoughTheRouteQueues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.queueing(func(oci.Repo) bool { return true })
	r.pushBlob(app, []byte(`{}`))
	got := r.want(201, "PUT", app+"/manifests/v1?pushproxy-mode=sync", image([]byte(`{}`)), ociType)
	r.hasHeaders(got, flags{"Pushproxy-Job": "", "Warning": ""})
	if _, _, ok := r.up.Manifest("acme/app", "v1"); !ok {
		t.Error("the upstream does not have it")
	}
	if code, _ := r.code(r.want(405, "PUT", app+"/manifests/v1?pushproxy-mode=later", image([]byte(`{}`)), ociType)); code != "UNSUPPORTED" {
		t.Errorf("an unknown mode: %s", code)
	}
}

func TestASyncPushIsNotUndoneByAnOlderQueuedOne(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		up := r.down()
		r.queueing(nil)
		older, newer := image([]byte(`{}`)), image([]byte(`{}`), []byte("x"))
		r.pushBlob(app, []byte(`{}`))
		r.pushBlob(app, []byte("x"))
		r.want(201, "PUT", app+"/manifests/v1?pushproxy-mode=async", older, ociType)
		time.Sleep(time.Minute)
		up()
		r.want(201, "PUT", app+"/manifests/v1", newer, ociType)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if stored, _, _ := r.up.Manifest("acme/app", "v1"); string(stored) != string(newer) {
			t.Errorf("the tag ended at %s", stored)
		}
		if _, _, ok := r.up.Manifest("acme/app", digest.FromBytes(older).String()); !ok || len(r.door.Queue.Jobs()) > 0 {
			t.Errorf("the older manifest is there: %t; queued: %v", ok, r.door.Queue.Jobs())
		}
	})
}

func TestATagThatIsDeletedWhileItIsQueuedDoesNotComeUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.queueing(nil)
	stop() // nothing is sent yet
	raw := image([]byte(`{}`))
	r.pushBlob(app, []byte(`{}`))
	r.want(201, "PUT", app+"/manifests/v1?pushproxy-mode=async", raw, ociType)
	r.want(202, "DELETE", app+"/manifests/v1", nil)
	r.want(404, "GET", app+"/manifests/v1", nil)
	if jobs := r.door.Queue.Jobs(); len(jobs) != 1 || len(jobs[0].Tags) != 0 {
		t.Errorf("queued: %+v", jobs)
	}
}

func TestAManifestWithoutItsBlobsIsNotQueued(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.queueing(func(oci.Repo) bool { return true })
	got := r.want(404, "PUT", app+"/manifests/v1", image([]byte(`{}`), []byte("nowhere")), ociType)
	if code, _ := r.code(got); code != "MANIFEST_BLOB_UNKNOWN" || len(r.door.Queue.Jobs()) != 0 {
		t.Errorf("%s, queued: %v", code, r.door.Queue.Jobs())
	}
}
