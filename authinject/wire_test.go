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

// TestOverRealConnections pushes through net/http on both sides: bodies are
// closed and sent again, connections are used again, an upload of odd shape
// finds its repository in the context.
func TestOverRealConnections(t *testing.T) {
	t.Parallel()
	for name, basic := range map[string]bool{"Basic": true, "Bearer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &registry{basic: basic}
			connections := map[string]bool{}
			var stored []byte
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				connections[req.RemoteAddr] = true
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
				closed := 0
				open := func() (io.ReadCloser, error) {
					return &countClose{Reader: bytes.NewReader(blob), n: &closed}, nil
				}
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
				if resp.StatusCode != http.StatusCreated || !bytes.Equal(stored, blob) || closed == 0 {
					t.Errorf("step %d: got %d, %d bytes, %d bodies closed", step, resp.StatusCode, len(stored), closed)
				}
				stored = nil
			}
			if strings.Contains(server.URL, "registry.test") {
				t.Error("the test is to show that the credential's host need not be the origin's")
			}
		})
	}
}

type countClose struct {
	io.Reader
	n *int
}

func (c *countClose) Close() error { *c.n++; return nil }
