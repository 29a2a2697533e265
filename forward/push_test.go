package forward

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestAFirstPushLooksForWhatIsLargeAndSendsEverythingOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
	result := r.pushed("ann", "app", "v1", r.image(config, layer))
	r.saw("POST app", "PUT app config", "HEAD app layer", "POST app", "PUT app layer", "PUT app:v1")
	if got := hows(result); !slices.Equal(got, []How{Uploaded, Uploaded}) || result.Unchanged || result.Took <= 0 {
		t.Errorf("result: %+v", result)
	}
	if got, _ := r.reg.Blob("app", digest.FromBytes(layer)); string(got) != string(layer) {
		t.Error("the upstream has another layer")
	}
}

func TestARepeatedPushIsOneHead(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config := r.given("ann", "config", tiny)
	m := r.image(config)
	r.pushed("ann", "app", "v1", m)
	r.requests()
	result := r.pushed("ann", "app", "v1", m)
	r.saw("HEAD app:v1")
	if !result.Unchanged || result.Digest != m.Digest(digest.SHA256) || !slices.Equal(hows(result), []How{Skipped}) {
		t.Errorf("result: %+v", result)
	}
}

func TestATagThatMovedAwayIsPutBackWithoutItsBlobs(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
	m := r.image(config, layer)
	r.pushed("ann", "app", "v1", m)
	r.reg.AddManifest("app", "v1", m.MediaType, []byte(`{"schemaVersion":2}`))
	r.requests()
	r.pushed("ann", "app", "v1", m)
	r.saw("HEAD app:v1", "PUT app:v1")
}

func TestASecondRepositoryGetsMountsAndNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
	m := r.image(config, layer)
	r.pushed("ann", "app", "v1", m)
	r.requests()
	result := r.pushed("ann", "second", "v1", m)
	r.saw("POST second mount config from app", "POST second mount layer from app", "PUT second:v1")
	if got := hows(result); !slices.Equal(got, []How{Mounted, Mounted}) || result.Blobs[0].From != "app" {
		t.Errorf("result: %+v", result)
	}
}

func TestAnImageThatSharesLayersSendsTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, base, added := r.given("ann", "config", tiny), r.given("ann", "base", large), r.given("ann", "added", large)
	r.pushed("ann", "app", "v1", r.image(config, base))
	r.requests()
	result := r.pushed("ann", "app", "v2", r.image(config, base, added))
	r.saw("HEAD app added", "POST app", "PUT app added", "PUT app:v2")
	if got := hows(result); !slices.Equal(got, []How{Skipped, Skipped, Uploaded}) {
		t.Errorf("result: %v", got)
	}
}

func TestABlobForwardedBeforeItsManifestIsReportedAsSentOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
	events := r.Watch(t.Context())
	for _, b := range [][]byte{config, layer} {
		r.Start(r.target("ann"), repo("app"), digest.FromBytes(b), "", "")
	}
	for sent := 0; sent < 2; {
		if e := <-events; e.Status == Pushed {
			sent++
		}
	}
	m := r.image(config, layer)
	result := r.pushed("ann", "app", "v1", m)
	r.saw("POST app", "PUT app config", "HEAD app layer", "POST app", "PUT app layer", "PUT app:v1")
	if got := hows(result); !slices.Equal(got, []How{Uploaded, Uploaded}) {
		t.Errorf("first push: %v", got)
	}
	if got := hows(r.pushed("ann", "app", "v2", m)); !slices.Equal(got, []How{Skipped, Skipped}) {
		t.Errorf("second push: %v", got)
	}
}

func TestFurtherTagsAreSetWithTheManifest(t *testing.T) {
	t.Parallel()
	for name, reg := range map[string]*upstreamtest.Registry{
		"by an upstream that knows ?tag=": {}, "by one that ignores it": {NoTagParam: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, reg)
			config := r.given("ann", "config", tiny)
			job := r.job("ann", "app", "", r.image(config))
			job.Tags = []string{"a", "b"}
			for range 2 {
				result, err := r.do(job)
				if err != nil || !slices.Equal(result.Tags, job.Tags) || result.Unchanged {
					t.Fatalf("tags %v, unchanged %v, %v", result.Tags, result.Unchanged, err)
				}
				for _, tag := range job.Tags {
					if _, _, ok := reg.Manifest("app", tag); !ok {
						t.Errorf("tag %s is not there", tag)
					}
				}
			}
		})
	}
}

func TestAManifestWithASubjectIsPutEachTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config := r.given("ann", "config", tiny)
	descriptor := func(b []byte) oci.Descriptor {
		return oci.Descriptor{MediaType: oci.MediaTypeOCIManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	m := r.manifest(oci.MediaTypeOCIManifest, map[string]any{
		"config": descriptor(config), "layers": []any{}, "subject": descriptor([]byte("somewhere else")),
	})
	for range 2 {
		if got := r.pushed("ann", "app", "v1", m).Subject; got != digest.FromString("somewhere else").String() {
			t.Errorf("OCI-Subject is %q", got)
		}
	}
}

func TestARefusalOfTheVeryManifestThatTheTagHasIsSuccess(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 403, 405, 409, 412} {
		r := newRig(t, &upstreamtest.Registry{})
		config := r.given("ann", "config", tiny)
		m := r.image(config)
		r.reg.AddBlob("app", config)
		r.reg.AddManifest("app", "v1", m.MediaType, m.Raw)
		r.reg.Inject(upstreamtest.Fault{Method: "PUT", Path: "/manifests/", Times: -1, Status: status, Code: "TAG_INVALID"})
		if result := r.pushed("ann", "app", "v1", m); !result.Unchanged {
			t.Errorf("%d: result: %+v", status, result)
		}
		other := r.image(r.blob("other", tiny))
		r.give("ann", r.blob("other", tiny))
		if _, err := r.push("ann", "app", "v1", other); err == nil {
			t.Errorf("%d: a push that the upstream refused for another manifest succeeded", status)
		}
	}
}

func TestAnUpstreamWithoutHeadStillTakesPushes(t *testing.T) {
	t.Parallel()
	for _, status := range []int{403, 405, 500} {
		reg := &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if req.Method == http.MethodHead {
				return status
			}
			return 0
		}}
		r := newRig(t, reg)
		config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
		r.pushed("ann", "app", "v1", r.image(config, layer))
		r.pushed("ann", "app", "v1", r.image(config, layer))
	}
}

func TestAFailedPushNamesTheUpstreamsReason(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	r.reg.Inject(upstreamtest.Fault{Method: "POST", Times: -1, Status: 403, Code: "DENIED"})
	config := r.given("ann", "config", tiny)
	_, err := r.push("ann", "app", "v1", r.image(config))
	if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), host) {
		t.Errorf("error: %v", err)
	}
}

func TestSubmitJoinsThePushUnderWay(t *testing.T) {
	t.Parallel()
	g := hold(t)
	r := newRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
		if strings.Contains(req.URL.Path, "/manifests/") {
			g.wait(req)
		}
		return 0
	}})
	config := r.given("ann", "config", tiny)
	job := r.job("ann", "app", "v1", r.image(config))
	first := r.submit(t.Context(), job)
	<-g.arrived
	same := r.submit(t.Context(), job)
	pushes := []*Push{first, same}
	for _, change := range []func(*Job){
		func(j *Job) { j.Tag = "v2" },
		func(j *Job) { j.Manifest.MediaType = oci.MediaTypeDockerManifest },
		func(j *Job) { j.Tags = []string{"v3"} },
		func(j *Job) { j.Target = r.target("bob") },
		func(j *Job) { j.Repo = repo("other") },
	} {
		other := job
		change(&other)
		p := r.submit(t.Context(), other)
		if slices.Contains(pushes, p) {
			t.Errorf("another push was joined: %+v", p.key)
		}
		pushes = append(pushes, p)
	}
	if first != same {
		t.Error("the same push is not joined")
	}
	g.pass()
	for _, p := range pushes[:3] {
		r.succeeds(p)
	}
}
