package upstream

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

var app = oci.Repo{Host: "registry.test", Name: "acme/app"}

// newClient returns a client of the fake, without a network.
func newClient(r *upstreamtest.Registry) *Client {
	return &Client{Host: "registry.test", URLs: []*url.URL{mustURL("https://registry.test")}, HTTP: &http.Client{Transport: r.Transport()}}
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// blobOf returns n bytes that differ everywhere, the same each time, and their
// digest.
func blobOf(n int) ([]byte, digest.Digest) {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b, digest.FromBytes(b)
}

// opener opens a blob that can seek; plainOpener one that cannot.
func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		return struct {
			io.ReadSeeker
			io.Closer
		}{bytes.NewReader(b), io.NopCloser(nil)}, nil
	}
}

func plainOpener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// sawRequests fails unless the fake saw exactly want; D stands for the digest.
func sawRequests(t *testing.T, r *upstreamtest.Registry, d digest.Digest, want ...string) {
	t.Helper()
	got := r.Requests()
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], d.String(), "D")
		got[i] = strings.ReplaceAll(got[i], "/v2/acme/app", "…")
	}
	if !slices.Equal(got, want) {
		t.Errorf("requests:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stored fails unless the fake holds exactly b.
func stored(t *testing.T, r *upstreamtest.Registry, b []byte, d digest.Digest) {
	t.Helper()
	got, ok := r.Blob("acme/app", d)
	if !ok || !bytes.Equal(got, b) {
		t.Errorf("the upstream has the blob: %v, %d bytes; want all %d", ok, len(got), len(b))
	}
}

// push starts an upload and sends b.
func push(t *testing.T, c *Client, b []byte, d digest.Digest) error {
	t.Helper()
	u, _, err := c.StartUpload(t.Context(), app, d, "")
	if err != nil {
		return err
	}
	return u.Send(t.Context(), int64(len(b)), opener(b))
}

// instead returns the fake's transport with answers by f, where f says that it
// answered.
func instead(r *upstreamtest.Registry, f func(w http.ResponseWriter, req *http.Request) bool) http.RoundTripper {
	return upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !f(w, req) {
			r.ServeHTTP(w, req)
		}
	}))
}

// everything does one of each to repo and to what reference names there.
func everything(ctx context.Context, c *Client, repo oci.Repo, reference string) map[string]error {
	b, d := blobOf(10)
	done := map[string]error{}
	_, _, done["look for a blob"] = c.HeadBlob(ctx, repo, d)
	_, done["fetch a blob"] = c.GetBlob(ctx, repo, d, "")
	done["delete a blob"] = c.DeleteBlob(ctx, repo, d)
	_, _, done["start an upload"] = c.StartUpload(ctx, repo, d, "")
	_, done["reopen an upload"] = c.Reopen(repo, d, "/v2/x/blobs/uploads/u1")
	_, _, done["list tags"] = c.Tags(ctx, repo, nil)
	_, _, done["list referrers"] = c.Referrers(ctx, repo, d, nil)
	_, _, done["look for a manifest"] = c.HeadManifest(ctx, repo, reference, nil)
	_, _, done["fetch a manifest"] = c.GetManifest(ctx, repo, reference, nil)
	_, done["store a manifest"] = c.PutManifest(ctx, repo, reference, "x", b, nil)
	done["delete a manifest"] = c.DeleteManifest(ctx, repo, reference)
	return done
}
