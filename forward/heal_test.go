package forward

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestWhatTheUpstreamLostIsSentAgainAndTheManifestRepeatedOnce(t *testing.T) {
	t.Parallel()
	for name, reg := range map[string]*upstreamtest.Registry{
		"MANIFEST_BLOB_UNKNOWN": {}, "BLOB_UNKNOWN with 400": {Missing: 400, MissingCode: "BLOB_UNKNOWN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, reg)
			config, lost, kept := r.given("ann", "config", tiny), r.given("ann", "lost", large), r.given("ann", "kept", large)
			r.pushed("ann", "app", "v1", r.image(config, lost, kept))
			reg.Forget(digest.FromBytes(lost))
			r.requests()
			result := r.pushed("ann", "app", "v2", r.image(config, kept, lost))
			r.saw("PUT app:v2", "HEAD app config", "HEAD app kept", "HEAD app lost", "POST app", "PUT app lost", "PUT app:v2")
			if got := hows(result); !slices.Equal(got, []How{Skipped, Skipped, Uploaded}) {
				t.Errorf("result: %v", got)
			}
		})
	}
}

func TestAnUpstreamThatKeepsMissingSomethingEndsThePush(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{StoreNot: true})
	config := r.given("ann", "config", tiny)
	_, err := r.push("ann", "app", "v1", r.image(config))
	if !errors.Is(err, oci.ErrManifestBlobUnknown) {
		t.Errorf("error: %v", err)
	}
	r.saw("POST app", "PUT app config", "PUT app:v1", "HEAD app config", "POST app", "PUT app config", "PUT app:v1")
}

func TestABlobThatNobodyHasIsNamed(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, nowhere := r.blob("config", tiny), r.blob("nowhere", large)
	r.give("ann", config)
	_, err := r.push("ann", "app", "v1", r.image(config, nowhere))
	if !errors.Is(err, oci.ErrManifestBlobUnknown) || !strings.Contains(oci.AsError(err).Message, digest.FromBytes(nowhere).String()) {
		t.Errorf("error: %v", err)
	}
	if slices.Contains(r.requests(), "PUT app:v1") {
		t.Error("the manifest was sent although a blob is nowhere")
	}
	r.reg.AddBlob("app", nowhere)
	r.pushed("ann", "app", "v1", r.image(config, nowhere))
}

func TestForeignLayersMayBeAbsent(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config := r.given("ann", "config", tiny)
	foreign := digest.FromString("foreign")
	r.call(foreign, "foreign")
	m := r.manifest(oci.MediaTypeOCIManifest, map[string]any{
		"config": oci.Descriptor{Digest: digest.FromBytes(config), Size: tiny},
		"layers": []oci.Descriptor{{Digest: foreign, Size: large, URLs: []string{"https://elsewhere.test/layer"}}},
	})
	result := r.pushed("ann", "app", "v1", m)
	r.saw("POST app", "PUT app config", "HEAD app foreign", "PUT app:v1")
	if got := hows(result); !slices.Equal(got, []How{Uploaded, Foreign}) {
		t.Errorf("result: %v", got)
	}
	if known, _ := r.believed(t.Context(), ownerOf("ann"), repo("app"), foreign); known {
		t.Error("a foreign layer is taken to be in the repository")
	}
}

func TestChildrenOfAnIndexThatTheUpstreamLostAreHealed(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	one, two := r.given("ann", "one", tiny), r.given("ann", "two", tiny)
	children := []oci.Manifest{r.image(one), r.image(two)}
	index := r.index(children...)
	for _, child := range children {
		_, err := r.push("ann", "app", "", child)
		noError(t, err)
	}
	r.requests()
	r.pushed("ann", "app", "v1", index)
	r.saw("PUT app:v1")
	// Lost with a blob of its own, behind the proxy's back.
	noError(t, r.target("x").Client.DeleteManifest(t.Context(), repo("app"), children[1].Digest(digest.SHA256).String()))
	r.reg.Forget(digest.FromBytes(two))
	r.requests()
	r.pushed("ann", "app", "v2", r.indexWith("again", children...))
	r.saw("PUT app:v2", "HEAD app:child1", "HEAD app:child2",
		"PUT app:child2", "HEAD app two", "POST app", "PUT app two", "PUT app:child2", "PUT app:v2")
}

// indexWith is an index that differs from others by a note.
func (r *rig) indexWith(note string, children ...oci.Manifest) oci.Manifest {
	r.t.Helper()
	return r.manifest(oci.MediaTypeOCIIndex, map[string]any{
		"manifests": r.index(children...).Manifests, "annotations": map[string]string{"note": note},
	})
}

func TestAnIndexOfUnknownChildrenIsTheUpstreamsToJudge(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	one := r.blob("one", tiny)
	child := r.image(one)
	index := r.index(child)
	if _, err := r.push("ann", "app", "v1", index); !errors.Is(err, oci.ErrManifestBlobUnknown) {
		t.Errorf("without the child: %v", err)
	}
	r.saw("HEAD app:child1", "PUT app:v1", "HEAD app:child1", "PUT app:v1")
	r.reg.AddManifest("app", "", child.MediaType, child.Raw)
	r.pushed("ann", "app", "v1", index)
	r.saw("HEAD app:child1", "PUT app:v1")
	r.pushed("ann", "app", "v2", r.indexWith("again", child))
	r.saw("PUT app:v2")
}

func TestAnIndexDoesNotBringAnothersManifestBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	one := r.given("ann", "one", tiny)
	child := r.image(one)
	_, err := r.push("ann", "app", "", child)
	noError(t, err)
	noError(t, r.target("ann").Client.DeleteManifest(t.Context(), repo("app"), child.Digest(digest.SHA256).String()))
	r.requests()
	if _, err := r.push("bob", "app", "v1", r.index(child)); !errors.Is(err, oci.ErrManifestBlobUnknown) {
		t.Errorf("error: %v", err)
	}
	r.saw("HEAD app:child1", "PUT app:v1", "HEAD app:child1", "PUT app:v1")
	// Nor does it take one's own from another repository: it need not belong there.
	if _, err := r.push("ann", "other", "v1", r.index(child)); !errors.Is(err, oci.ErrManifestBlobUnknown) {
		t.Errorf("error: %v", err)
	}
	r.saw("HEAD other:child1", "PUT other:v1", "HEAD other:child1", "PUT other:v1")
}

func TestIndexesMayNotNestWithoutEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	m := r.image(r.blob("one", tiny))
	for range maxIndexDepth + 1 {
		noError(t, r.meta.PutManifest(t.Context(), repo("app"), m.Digest(digest.SHA256), metadata.Manifest{MediaType: m.MediaType, Raw: m.Raw}))
		noError(t, r.meta.Grant(t.Context(), "ann", m.Digest(digest.SHA256)))
		m = r.index(m)
	}
	if _, err := r.push("ann", "app", "v1", m); !errors.Is(err, oci.ErrManifestInvalid) {
		t.Errorf("error: %v", err)
	}
}

func TestADamagedBlobIsAskedForAgainAndNeverReachesTheUpstream(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.given("ann", "layer", 2<<20)
	r.damage()
	_, err := r.push("ann", "app", "v1", r.image(layer))
	if !errors.Is(err, oci.ErrManifestBlobUnknown) || !strings.Contains(oci.AsError(err).Message, "damaged") {
		t.Errorf("error: %v", err)
	}
	if _, ok := r.reg.Blob("app", digest.FromBytes(layer)); ok {
		t.Error("the upstream has the damaged blob")
	}
	if _, err := r.cache.Stat(t.Context(), digest.FromBytes(layer)); !errors.Is(err, blobcache.ErrUnknown) {
		t.Errorf("the damaged blob is still offered: %v", err)
	}
	r.give("ann", layer)
	r.pushed("ann", "app", "v1", r.image(layer))
	noError(t, r.Close(t.Context()))
	if n := r.reg.Sessions(); n != 0 {
		t.Errorf("%d sessions are left open", n)
	}
}

// damage flips a bit in the first chunk of everything stored.
func (r *rig) damage() {
	r.t.Helper()
	for upload, err := range r.store.Uploads(r.t.Context()) {
		noError(r.t, err)
		chunk, err := r.store.GetChunk(r.t.Context(), upload, 0, nil)
		noError(r.t, err)
		chunk[len(chunk)/2] ^= 1
		noError(r.t, r.store.PutChunk(r.t.Context(), upload, 0, chunk))
	}
}

func TestABlobThatLeavesTheCacheInTheLastMomentIsAskedForAgain(t *testing.T) {
	t.Parallel()
	g := hold(t)
	r := newRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
		if req.Method == http.MethodPost {
			g.wait(req)
		}
		return 0
	}})
	layer := r.given("ann", "layer", tiny)
	p := r.submit(t.Context(), r.job("ann", "app", "v1", r.image(layer)))
	<-g.arrived
	noError(t, r.cache.Remove(t.Context(), digest.FromBytes(layer)))
	g.pass()
	if _, err := p.Wait(t.Context()); !errors.Is(err, oci.ErrManifestBlobUnknown) {
		t.Errorf("error: %v", err)
	}
}
