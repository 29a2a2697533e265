package forward

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestABlobOfAnotherPrincipalIsNotUploadedWithoutAGrant(t *testing.T) {
	t.Parallel()
	r := newRig(t, &upstreamtest.Registry{})
	secret, random := r.blob("secret", large), r.blob("random", large)
	r.give("ann", secret)
	r.pushed("ann", "ann/private", "v1", r.image(secret))
	r.requests()
	var messages []string
	for name, b := range map[string][]byte{"secret": secret, "random": random} {
		_, err := r.push("bob", "bob/app", "v1", r.image(b))
		if !errors.Is(err, oci.ErrManifestBlobUnknown) {
			t.Errorf("%s: %v", name, err)
		}
		messages = append(messages, strings.ReplaceAll(oci.AsError(err).Message, digest.FromBytes(b).String(), "D"))
		for _, q := range r.reg.Log() {
			if q.Header.Get("Authorization") != "bob" {
				t.Errorf("a request with another's credential: %s", q)
			}
		}
		r.saw("HEAD bob/app " + name)
	}
	if messages[0] != messages[1] {
		t.Errorf("the answers differ:\n%s\n%s", messages[0], messages[1])
	}
}

func TestWhatOneOwnerSawInARepositoryIsNoAnswerForAnother(t *testing.T) {
	t.Parallel()
	reg := &upstreamtest.Registry{Fail: func(req *http.Request) int {
		if req.Header.Get("Authorization") == "bob" && strings.Contains(req.URL.Path, "ann/private") {
			return http.StatusForbidden
		}
		return 0
	}}
	r := newRig(t, reg)
	secret, random := r.blob("secret", large), r.blob("random", large)
	r.give("ann", secret)
	r.pushed("ann", "ann/private", "v1", r.image(secret))
	for _, granted := range []bool{false, true} {
		var errs []string
		for _, b := range [][]byte{secret, random} {
			if granted {
				r.give("bob", b)
			}
			_, err := r.push("bob", "ann/private", "other", r.image(b))
			if !errors.Is(err, oci.ErrDenied) {
				t.Errorf("granted %v: %v", granted, err)
			}
			errs = append(errs, strings.ReplaceAll(oci.AsError(err).Message, digest.FromBytes(b).String(), "D"))
		}
		if errs[0] != errs[1] {
			t.Errorf("granted %v: a stranger can tell what a repository holds:\n%s\n%s", granted, errs[0], errs[1])
		}
	}
	child := r.image(secret)
	noError(t, func() error { _, err := r.push("ann", "ann/private", "", child); return err }())
	r.requests()
	if _, err := r.push("bob", "ann/private", "index", r.index(child)); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("index: %v", err)
	}
	r.saw("HEAD ann/private:child1")
}

func TestAStrangerDoesNotWaitForAnothersUpload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := hold(t)
		r := memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
			if req.Header.Get("Authorization") == "eve" {
				return http.StatusForbidden
			}
			if isBlobPut(req) {
				g.wait(req)
			}
			return 0
		}})
		layer := r.given("ann", "layer", large)
		r.give("eve", layer)
		r.Start(r.target("ann"), repo("app"), digest.FromBytes(layer), "", "")
		<-g.arrived
		began := time.Now()
		// Without the grant the answer comes at once, although the blob is on its way.
		if _, err := r.push("bob", "app", "v1", r.image(layer)); !errors.Is(err, oci.ErrManifestBlobUnknown) {
			t.Errorf("error: %v", err)
		}
		// Nor does anybody wait who may not push there.
		if _, err := r.push("eve", "app", "v1", r.image(layer)); !errors.Is(err, oci.ErrDenied) {
			t.Errorf("error: %v", err)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("strangers waited for %s", waited)
		}
		g.pass()
	})
}
