package authinject

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pushproxy/oci"
)

// TestOverRealConnections pushes through net/http on both sides: bodies are sent
// again, and an upload of odd shape finds its repository in the context.
func TestOverRealConnections(t *testing.T) {
	t.Parallel()
	for name, basic := range map[string]bool{"Basic": true, "Bearer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &registry{basic: basic}
			var stored []byte
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method != "PUT" || !r.allowed(req) {
					r.ServeHTTP(w, req)
					return
				}
				body, err := io.ReadAll(req.Body)
				if err != nil {
					t.Error(err)
				}
				stored = body
				w.WriteHeader(http.StatusCreated)
			}))
			defer server.Close()
			r.realm = server.URL + "/token"
			base, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			network := &http.Transport{}
			defer network.CloseIdleConnections()
			tr := &Transport{Host: "registry.test", Origins: []*url.URL{base}, Source: fixed{"": bob}, Base: network}
			client := &http.Client{Transport: tr}
			blob := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			ctx := oci.ContextWithRepo(t.Context(), oci.Repo{Host: "registry.test", Name: "acme/app"})
			for step, lose := range []bool{false, true} {
				if lose {
					r.revoke()
				}
				open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }
				body, _ := open()
				req, err := http.NewRequestWithContext(ctx, "PUT", server.URL+"/artifacts-uploads/odd?x=1", body)
				if err != nil {
					t.Fatal(err)
				}
				req.ContentLength, req.GetBody = int64(len(blob)), open
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusCreated || !bytes.Equal(stored, blob) {
					t.Errorf("step %d: got %d and %d bytes", step, resp.StatusCode, len(stored))
				}
				stored = nil
			}
		})
	}
}

func TestABodyIsClosedEvenIfNothingIsSent(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*registry{
		"a refused realm":      {realm: "https://evil.example/token"},
		"a refused credential": {password: "another"},
	} {
		tr, w := newTransport(r, fixed{"": bob})
		for range 2 {
			body := &closing{Reader: strings.NewReader("stream")}
			req, err := http.NewRequestWithContext(t.Context(), "PATCH", home+"/v2/acme/app/blobs/uploads/1", body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tr.RoundTrip(req); err == nil {
				t.Errorf("%s: got no error", name)
			}
			if !body.closed {
				t.Errorf("%s: the body stays open", name)
			}
		}
		for _, line := range w.lines(homeAt) {
			if strings.HasPrefix(line, "PATCH") {
				t.Errorf("%s: the stream was sent, and is lost", name)
			}
		}
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }
