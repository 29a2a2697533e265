package authinject

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pushproxy/oci"
)

// fixed is a Source of constant credentials.
type fixed map[string]Credential // by repository name

func (f fixed) Credential(_ context.Context, repo oci.Repo) (Credential, error) {
	if repo.Host != "registry.test" {
		return Credential{}, ErrNone
	}
	if c, ok := f[repo.Name]; ok {
		return c, nil
	}
	if c, ok := f[""]; ok {
		return c, nil
	}
	return Credential{}, ErrNone
}

func (f fixed) Hosts(context.Context) ([]string, error) { return []string{"registry.test"}, nil }

var bob = Credential{Username: "bob", Password: canary, Source: "docker config /home/bob/.docker/config.json"}

// newTransport returns a Transport to https://registry.test, served by r.
func newTransport(r http.Handler, source Source) (*Transport, *wire) {
	w := &wire{hosts: map[string]http.Handler{"https://registry.test:443": r}}
	return &Transport{
		Host: "registry.test", Origins: []*url.URL{{Scheme: "https", Host: "registry.test"}}, Source: source, Base: w,
	}, w
}

// send makes a request with a body that can be sent again, and returns the
// status, or the error.
func send(t *testing.T, tr http.RoundTripper, method, address, body string) (int, error) {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, address, in)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_ = resp.Body.Close()
	return resp.StatusCode, nil
}

// mustSend fails unless the answer has the status.
func mustSend(t *testing.T, tr http.RoundTripper, want int, method, address, body string) {
	t.Helper()
	got, err := send(t, tr, method, address, body)
	if err != nil || got != want {
		t.Fatalf("%s %s: got status %d and error %v, want %d", method, address, got, err, want)
	}
}
