package proxy

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"testing"
)

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestOnePortSpeaksHTTPAndHTTPS(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ca := newCA(t, "localhost")
	l := WithTLS(inner, ca)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Secure", map[bool]string{true: "yes", false: "no"}[r.TLS != nil])
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, ca)}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for base, want := range map[string]string{"http://127.0.0.1": "no", "https://127.0.0.1": "yes", "https://localhost": "yes"} {
		answer, err := client.Get(base + ":" + port + "/")
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		answer.Body.Close()
		if got := answer.Header.Get("Secure"); got != want {
			t.Errorf("%s: got %s", base, got)
		}
		if answer.ProtoMajor != 1 {
			t.Errorf("%s: who speaks both is answered by %s", base, answer.Proto)
		}
	}
	only := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, ca)}, Protocols: new(http.Protocols)}}
	only.Transport.(*http.Transport).Protocols.SetHTTP2(true)
	defer only.CloseIdleConnections()
	answer, err := only.Get("https://localhost:" + port + "/")
	if err != nil {
		t.Fatalf("who speaks HTTP/2 only: %v", err)
	}
	answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Errorf("who speaks HTTP/2 only is answered by %s", answer.Proto)
	}
	// One that says nothing holds up neither the others nor the end.
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != http.ErrServerClosed {
		t.Errorf("got %v", err)
	}
}
