package forward

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestFactsAgeByTheirEvidence(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		how  metadata.Evidence
		age  time.Duration
		want bool
	}{
		{metadata.Uploaded, presenceFor - time.Second, true},
		{metadata.Uploaded, presenceFor + time.Second, false},
		{metadata.Mounted, presenceFor + time.Second, false},
		{metadata.Seen, presenceFor + time.Second, false},
		{metadata.Named, presenceFor + time.Second, true},
		{metadata.Named, namedFor + time.Second, false},
		{metadata.Deleted, 0, false},
		{metadata.Named, -time.Hour, false}, // the clock was set back
	} {
		if got := fresh(metadata.Presence{When: now.Add(-test.age), How: test.how}, now); got != test.want {
			t.Errorf("evidence %q of %s ago is fresh: %v", test.how, test.age, got)
		}
	}
}

func TestWhatWasSeenLongAgoIsLookedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{})
		layer := r.given("ann", "layer", large)
		m := r.image(layer)
		_, err := r.Blob(t.Context(), r.target("ann"), repo("app"), m.Blobs[0], "")
		noError(t, err)
		r.requests()
		time.Sleep(presenceFor + time.Second)
		r.pushed("ann", "app", "v1", m)
		r.saw("HEAD app layer", "PUT app:v1")
		time.Sleep(presenceFor + time.Second)
		r.pushed("ann", "app", "v2", m)
		r.saw("HEAD app:v2", "PUT app:v2")
	})
}

func TestWhatIsToBeVerifiedIsNotBelieved(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	e := errand{Descriptor: oci.Descriptor{Digest: digest.FromString("x")}, t: r.target("ann"), owner: ownerOf("ann"), repo: repo("app")}
	noError(t, r.Seen(t.Context(), e.t, e.repo, e.Digest, 1))
	for _, verify := range []bool{false, true} {
		e.verify = verify
		b, err := r.plan(t.Context(), e)
		noError(t, err)
		if b.present == verify {
			t.Errorf("to be verified: %v, believed: %v", verify, b.present)
		}
	}
}

func TestWhatIsSeenIsLearnedByEveryOwnerAndLeavesBetterEvidence(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	d := digest.FromBytes(layer)
	r.give("ann", layer)
	r.pushed("ann", "app", "v1", r.image(layer))
	if known, _ := r.believed(t.Context(), ownerOf("bob"), repo("app"), d); known {
		t.Error("an owner believes what only another saw")
	}
	noError(t, r.Seen(t.Context(), r.target("bob"), repo("app"), d, large))
	if known, _ := r.believed(t.Context(), ownerOf("bob"), repo("app"), d); !known {
		t.Error("an owner does not believe what the upstream showed them")
	}
	if p, _, _ := r.meta.Presence(t.Context(), repo("app"), d); p.How != metadata.Named {
		t.Errorf("the evidence is now %q", p.How)
	}
	noError(t, r.Received(t.Context(), repo("app"), d))
	if known, _ := r.believed(t.Context(), ownerOf("ann"), repo("app"), d); !known {
		t.Error("receiving a blob clears more than the mark of a deletion")
	}
}

func TestADeletedBlobIsNotBelievedUntilItIsPushedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	d := digest.FromBytes(layer)
	target := r.target("ann")
	believed := func() bool {
		known, err := r.believed(t.Context(), ownerOf("ann"), repo("app"), d)
		noError(t, err)
		return known
	}
	noError(t, r.Seen(t.Context(), target, repo("app"), d, large))
	if !believed() {
		t.Error("what the upstream showed is not believed")
	}
	noError(t, r.Deleted(t.Context(), target, repo("app"), d))
	if believed() {
		t.Error("what the upstream deleted is believed")
	}
	if sources, _ := r.meta.Sources(t.Context(), ownerOf("ann"), d, host); len(sources) > 0 {
		t.Errorf("it would be mounted from %v", sources)
	}
	noError(t, r.Received(t.Context(), repo("app"), d))
	if _, known, _ := r.meta.Presence(t.Context(), repo("app"), d); known || believed() {
		t.Error("the mark of the deletion is left, or receiving a blob is taken for the upstream's word")
	}
	broken := r.target("ann")
	broken.Owner = func(context.Context, oci.Repo) (metadata.Owner, error) {
		return metadata.Owner{}, errors.New("helper failed")
	}
	if err := r.Deleted(t.Context(), broken, repo("app"), d); err == nil || believed() {
		t.Errorf("deletion without a credential: %v", err)
	}
	if p, _, _ := r.meta.Presence(t.Context(), repo("app"), d); p.How != metadata.Deleted {
		t.Error("the deletion is not marked")
	}
}

func TestWhatAManifestWasSeenToNameCanBeMountedLater(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	d := r.reg.AddBlob("base", layer)
	m := r.image(layer)
	m.Blobs = append(m.Blobs, oci.Descriptor{Digest: digest.FromString("foreign"), URLs: []string{"https://elsewhere.test/"}})
	r.Learn(r.target("ann"), repo("base"), m)
	noError(t, r.Close(t.Context()))
	for principal, want := range map[string]int{"ann": 1, "bob": 0} {
		sources, err := r.meta.Sources(t.Context(), ownerOf(principal), d, host)
		if err != nil || len(sources) != want {
			t.Errorf("%s has the sources %v, %v", principal, sources, err)
		}
	}
	if sources, _ := r.meta.Sources(t.Context(), ownerOf("ann"), digest.FromString("foreign"), host); len(sources) > 0 {
		t.Error("a foreign layer is taken to be in the repository")
	}
	if _, known, _ := r.meta.Presence(t.Context(), repo("base"), d); known {
		t.Error("a manifest was taken for the upstream's word on a blob")
	}
}

func TestAManifestThatOnlyOthersPushedIsPushedInFull(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.given("ann", "layer", large)
	m := r.image(layer)
	r.pushed("ann", "app", "v1", m)
	r.requests()
	r.pushed("bob", "app", "v1", m)
	r.saw("HEAD app layer", "PUT app:v1")
	// What the upstream showed them they know from now on.
	r.pushed("bob", "app", "v1", m)
	r.saw("HEAD app:v1")
	r.pushed("bob", "bob/app", "v1", m)
	r.saw("POST bob/app mount layer from app", "PUT bob/app:v1")
}

func TestAManifestSeenAsAChildAndThenPushedIsTheirs(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	r.reg.AddBlob("app", layer)
	child := r.image(layer)
	d := r.reg.AddManifest("app", "", child.MediaType, child.Raw)
	r.pushed("bob", "app", "v1", r.index(child))
	if granted, _ := r.meta.Granted(t.Context(), "bob", d); granted {
		t.Error("to name a manifest is to have had it")
	}
	r.requests()
	_, err := r.push("bob", "app", "", child)
	noError(t, err)
	r.saw("HEAD app:child1")
	if granted, _ := r.meta.Granted(t.Context(), "bob", d); !granted {
		t.Error("who pushed a manifest may not see it")
	}
	r.pushed("bob", "bob/app", "v1", child)
	r.saw("POST bob/app mount layer from app", "PUT bob/app:v1")
}
