package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/authinject"
	"pushproxy/oci"
	"pushproxy/proxy"
	"pushproxy/upstream"
	"pushproxy/upstream/upstreamtest"
)

// What people are shown of a push is made of these: a request that is missing,
// or told twice, would be a lie.
func TestExchangesAndEventsTogetherAreWhatTheUpstreamSaw(t *testing.T) {
	t.Parallel()
	fake := &upstreamtest.Registry{Auth: &upstreamtest.Auth{Username: "bob", Password: "secret", Bearer: true}}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "config.json")
	login := base64.StdEncoding.EncodeToString([]byte("bob:secret"))
	if err := os.WriteFile(file, []byte(`{"auths":{"registry.test":{"auth":"`+login+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := newUpstreams(Config{
		Upstreams:   []UpstreamConfig{{Host: "registry.test", URL: server.URL}},
		Credentials: CredentialsConfig{DockerConfig: file},
	}, "installation", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := u.reach(proxy.Local, "registry.test", u.sources)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []string
	r.Client.Notify = nil
	r.Client.Observe = func(_ context.Context, x upstream.Exchange) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf("%s %d", x.Op, x.Status))
	}
	r.transport.Observe = func(_ context.Context, e authinject.Event) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf("%s %d", e.Kind, e.Status))
	}
	repo, ctx := oci.Repo{Host: "registry.test", Name: "acme/app"}, t.Context()
	blob := "a blob"
	up, _, err := r.Client.StartUpload(ctx, repo, digest.FromString(blob), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Send(ctx, int64(len(blob)), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(blob)), nil }); err != nil {
		t.Fatal(err)
	}
	base := oci.Repo{Host: "registry.test", Name: "acme/base"}
	if err := r.Warm(ctx, base); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Client.HeadBlob(ctx, base, digest.FromString(blob)); err != nil {
		t.Fatal(err)
	}
	want := []string{"start 401", "token 200", "start 202", "upload 201", "token 200", "head 404"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q; the upstream saw %q", told, want, fake.Requests())
	}
	if len(fake.Log()) != len(told) {
		t.Errorf("told of %d requests, the upstream saw %d: %q", len(told), len(fake.Log()), fake.Requests())
	}
}
