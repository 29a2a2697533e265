package forward

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestAPushSucceedsWhateverIsAnsweredToMounts(t *testing.T) {
	t.Parallel()
	for _, status := range []int{202, 400, 401, 403, 404, 405, 500} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, &upstreamtest.Registry{})
			layer := r.given("ann", "layer", large)
			m := r.image(layer)
			r.pushed("ann", "app", "v1", m)
			r.requests()
			r.reg.MountAnswer = status
			want := []string{"POST second mount layer from app", "HEAD second layer", "PUT second layer", "PUT second:v1"}
			if status != 202 {
				want = slices.Insert(want, 0, "POST second")
			}
			if got := hows(r.pushed("ann", "second", "v1", m)); !slices.Equal(got, []How{Uploaded}) {
				t.Errorf("result: %v", got)
			}
			r.saw(want...)
			if n := r.reg.Sessions(); n != 0 {
				t.Errorf("%d sessions are left open", n)
			}
			// The refusal is remembered.
			r.reg.Forget(digest.FromBytes(layer))
			r.forgetful("ann", "second", layer)
			r.pushed("ann", "second", "v2", m)
			r.saw("HEAD second:v2", "HEAD second layer", "POST second", "PUT second layer", "PUT second:v2")
		})
	}
}

func TestARefusedMountIsAskedForAgainLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := memoryRig(t, &upstreamtest.Registry{MountAnswer: 202})
		layer := r.given("ann", "layer", large)
		m := r.image(layer)
		mounts := func(tag string) int {
			r.forgetful("ann", "second", layer)
			r.pushed("ann", "second", tag, m)
			return len(slices.DeleteFunc(r.requests(), func(s string) bool { return !strings.Contains(s, " mount ") }))
		}
		r.pushed("ann", "app", "v1", m)
		if a, b := mounts("v1"), mounts("v2"); a != 1 || b != 0 {
			t.Errorf("%d mounts at first and %d at once after", a, b)
		}
		time.Sleep(refusedFor + time.Second)
		if n := mounts("v3"); n != 1 {
			t.Errorf("%d mounts after %s", n, refusedFor)
		}
	})
}

func TestOneRefusedBlobDoesNotStopTheMountsOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	gone, layer := r.given("ann", "gone", large), r.given("ann", "layer", large)
	r.pushed("ann", "app", "v1", r.image(gone, layer))
	r.reg.Forget(digest.FromBytes(gone))
	r.pushed("ann", "second", "v1", r.image(gone))
	r.requests()
	r.pushed("ann", "second", "v2", r.image(layer))
	r.saw("POST second mount layer from app", "PUT second:v2")
}

func TestAnUpstreamThatNeverMountsIsNotAskedForEveryBlob(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{MountAnswer: 405})
	var blobs [][]byte
	for i := range 2 * refusedAll {
		blobs = append(blobs, r.blob(fmt.Sprintf("blob%d", i), tiny))
	}
	r.give("ann", blobs...)
	r.pushed("ann", "app", "v1", r.image(blobs...))
	for i, b := range blobs {
		r.requests()
		r.pushed("ann", "second", fmt.Sprintf("v%d", i), r.image(b))
		asked := slices.ContainsFunc(r.requests(), func(s string) bool { return strings.Contains(s, " mount ") })
		if asked != (i < refusedAll) {
			t.Errorf("blob %d: mount asked for: %v", i, asked)
		}
	}
}

func TestAMountForgivesTheRefusalsBefore(t *testing.T) {
	t.Parallel()
	var r refusals
	on := route{to: repo("app")}
	d := func(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }
	for i := range refusedAll - 1 {
		r.declined(on, d(i))
	}
	r.mounted(on, d(100))
	r.declined(on, d(refusedAll))
	if r.lately(on, d(200)) || !r.lately(on, d(0)) || r.lately(route{to: repo("other")}, d(0)) {
		t.Error("a mount between refusals does not break their row, or a blob's own refusal is forgotten")
	}
}

func TestOnlyTheLastSessionOfRefusedMountsIsUsedAndTheOthersAreCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.given("ann", "layer", large)
	m := r.image(layer)
	for _, name := range []string{"a", "b", "c", "d"} {
		r.pushed("ann", name, "v1", m)
	}
	r.requests()
	r.reg.MountAnswer = 202
	r.pushed("ann", "app", "v1", m)
	noError(t, r.Close(t.Context()))
	list := r.requests()
	count := func(prefix string) (n int) {
		for _, s := range list {
			if strings.HasPrefix(s, prefix) {
				n++
			}
		}
		return n
	}
	if mounts, posts, cancels := count("POST app mount"), count("POST app"), count("DELETE app upload"); mounts != 3 || posts != 3 || cancels != 2 {
		t.Errorf("%d mounts, %d sessions opened, %d cancelled", mounts, posts, cancels)
	}
	if n := r.reg.Sessions(); n != 0 {
		t.Errorf("%d sessions are left open", n)
	}
}

func TestTheNumberOfMountsDependsOnTheSize(t *testing.T) {
	t.Parallel()
	for size, want := range map[int64]int{0: 1, 100 << 10: 1, 100<<10 + 1: 3, 10 << 20: 3, 10<<20 + 1: 4, -1: 3} {
		if got := budget(size); got != want {
			t.Errorf("a blob of %d bytes is worth %d mounts, want %d", size, got, want)
		}
	}
}

func TestS20MountsComeFromTheOwnersOwnRepositoriesAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	m := r.image(layer)
	r.give("ann", layer)
	r.give("bob", layer)
	r.pushed("ann", "ann/private", "v1", m)
	r.requests()
	r.pushed("bob", "bob/app", "v1", m)
	r.saw("HEAD bob/app layer", "POST bob/app", "PUT bob/app layer", "PUT bob/app:v1")
	r.pushed("bob", "bob/second", "v1", m)
	r.saw("POST bob/second mount layer from bob/app", "PUT bob/second:v1")
}

func TestMountsAreTriedWhereTheNamesAreMostAlikeAndTheClientsHintFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", tiny)
	d := digest.FromBytes(layer)
	for _, name := range []string{"acme/team/base", "acme/other", "elsewhere"} {
		noError(t, r.meta.AddSource(t.Context(), ownerOf("ann"), d, repo(name)))
	}
	for hint, want := range map[string][]string{
		"":           {"acme/team/base", "acme/other", "elsewhere"},
		"elsewhere":  {"elsewhere", "acme/team/base", "acme/other"},
		"new/source": {"new/source", "acme/team/base", "acme/other"},
		// Itself is no source.
		"acme/team/app": {"acme/team/base", "acme/other", "elsewhere"},
	} {
		e := errand{Descriptor: oci.Descriptor{Digest: d, Size: large}, t: r.target("ann"), owner: ownerOf("ann"), repo: repo("acme/team/app"), hint: hint}
		b, err := r.plan(t.Context(), e)
		noError(t, err)
		var got []string
		for _, source := range b.sources {
			got = append(got, source.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with the hint %q: %v, want %v", hint, got, want)
		}
	}
}

func TestS22MountNeedsTheUpstreamsWord(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	layer := r.blob("layer", large)
	d := r.reg.AddBlob("base", layer)
	ask := func(name, from string) bool {
		t.Helper()
		mounted, err := r.Mount(t.Context(), r.target("ann"), repo(name), d, from)
		noError(t, err)
		return mounted
	}
	if ask("app", "") {
		t.Error("mounted from nowhere")
	}
	r.saw()
	if !ask("app", "base") {
		t.Error("not mounted from where the client said")
	}
	r.saw("POST app mount layer from base")
	if !ask("second", "") {
		t.Error("not mounted from where it was seen")
	}
	r.saw("POST second mount layer from app")
	r.reg.MountAnswer = 202
	if ask("third", "base") {
		t.Error("a refusal counts as mounted")
	}
	noError(t, r.Close(t.Context()))
	if n := r.reg.Sessions(); n != 0 {
		t.Errorf("%d sessions are left open", n)
	}
	if _, err := r.Mount(t.Context(), r.target("ann"), repo("app"), d, "base"); err != ErrClosed {
		t.Errorf("after Close: %v", err)
	}
}

func TestS22AnUpstreamThatLiesAboutMountsGetsTheBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	config, layer := r.given("ann", "config", tiny), r.given("ann", "layer", large)
	m := r.image(config, layer)
	r.pushed("ann", "app", "v1", m)
	r.requests()
	r.reg.MountAnswer = http.StatusCreated
	if got := hows(r.pushed("ann", "second", "v1", m)); !slices.Equal(got, []How{Uploaded, Uploaded}) {
		t.Errorf("result: %v", got)
	}
	r.saw("POST second mount config from app", "POST second mount layer from app", "PUT second:v1",
		"HEAD second config", "POST second", "PUT second config", "HEAD second layer", "POST second", "PUT second layer", "PUT second:v1")
}
