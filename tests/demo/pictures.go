package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"pushproxy/tests/parts"
)

// scene is a registry behind a slow link, a pushproxy, and a browser that looks at its page.
type scene struct {
	dir, crane, page string
	proxy            *parts.Pushproxy
	browser          *parts.Browser
	layers           map[string][]byte
}

const pictured = "registry.acme.test"

// photograph pushes images over a slow link and writes what the status page shows to status.png and status-dark.png.
func photograph(ctx context.Context, to string) error {
	dir, err := os.MkdirTemp("", "pushproxy-pictures-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &scene{dir: dir, layers: map[string][]byte{}}
	stop, err := s.build(ctx)
	defer stop()
	if err != nil {
		return err
	}
	// What has been: a base, an image on it, the same under another name, and one that is not allowed.
	for _, past := range []struct {
		ref     string
		layers  []string
		refused bool
	}{
		{"base/debian:13", []string{"os", "tls"}, false},
		{"acme/app:1.4.1", []string{"os", "tls", "app1", "conf"}, false},
		{"acme/app:1.4", []string{"os", "tls", "app1", "conf"}, false},
		{"platform/secrets:1", []string{"conf"}, true},
		{"acme/worker:7", []string{"os", "tls", "work"}, false},
	} {
		if err := s.push(ctx, past.ref, past.layers...); (err != nil) != past.refused {
			return fmt.Errorf("the push of %s: %w", past.ref, errors.Join(err, errors.New("it was to end otherwise")))
		}
	}
	pushing, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- s.push(pushing, "acme/app:1.5.0", "os", "tls", "app2", "model", "web", "conf2") }()
	go func() { ended <- s.push(pushing, "acme/worker:8", "os", "tls", "app1", "work2") }()
	err = s.take(ctx, to, ended)
	cancel()
	return err
}

// take waits for a moment in which there is much to see.
func (s *scene) take(ctx context.Context, to string, ended <-chan error) error {
	if err := s.browser.Open("page", parts.BrowserTab{URL: s.page, Width: 1280, Height: 900, Scheme: "light"}); err != nil {
		return err
	}
	const ready = `(() => {
  const half = [...document.querySelectorAll(".blob.pushing progress.sent")].filter((p) => p.position > 0.15 && p.position < 0.85);
  return half.length >= 2 && document.querySelector(".blob.retrying") !== null && document.querySelector(".blob.mounted") !== null;
})()`
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		var now bool
		if err := s.browser.Eval("page", ready, &now); err != nil {
			return err
		}
		if now {
			break
		}
		select {
		case <-tick.C:
		case err := <-ended:
			var shown string
			_ = s.browser.Eval("page", "document.getElementById('pushes').innerText", &shown)
			return errors.Join(fmt.Errorf("a push ended before the picture was taken; the page shows\n%s", shown), err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var height int64
	if err := s.browser.Eval("page", "document.documentElement.scrollHeight", &height); err != nil {
		return err
	}
	for _, scheme := range []string{"light", "dark"} {
		if err := s.browser.Open("page", parts.BrowserTab{URL: s.page, Width: 1280, Height: height, Scheme: scheme}); err != nil {
			return err
		}
		var live bool
		script := `new Promise((done) => { const look = () => document.getElementById("live").dataset.state === "live" ? setTimeout(() => done(true), 400) : setTimeout(look, 20); look(); })`
		if err := s.browser.Eval("page", script, &live); err != nil {
			return err
		}
		name := map[string]string{"light": "status.png", "dark": "status-dark.png"}[scheme]
		file := filepath.Join(to, name)
		if err := s.browser.Picture("page", file); err != nil {
			return err
		}
		if err := shrink(file); err != nil {
			return err
		}
	}
	return nil
}

// push pushes an image of named layers.
func (s *scene) push(ctx context.Context, ref string, layers ...string) error {
	dir := filepath.Join(s.dir, strings.NewReplacer("/", "-", ":", "-").Replace(ref))
	var contents [][]byte
	for _, name := range layers {
		contents = append(contents, s.layers[name])
	}
	if err := writeImage(dir, contents...); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, s.crane, "push", "--insecure", dir, fmt.Sprintf("localhost:%d/%s/%s", s.proxy.Port, pictured, ref))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(s.dir, "nobody")}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("crane: %w\n%s", err, out)
	}
	return nil
}

// build brings everything up; stop takes down what is up, after an error too.
func (s *scene) build(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	}
	for name, size := range map[string]int{
		"os": 31_200_000, "tls": 1_900_000, "app1": 9_400_000, "app2": 38_700_000, "model": 64_000_000, "web": 1_600_000, "conf": 4_100, "conf2": 4_300, "work": 7_300_000, "work2": 21_500_000,
	} {
		s.layers[name] = randomLayer(size)
	}
	tools, err := parts.Tools(ctx)
	if err != nil {
		return stop, err
	}
	s.crane = filepath.Join(tools, "crane")
	chromium, err := parts.Find("chromium")
	if err != nil {
		return stop, fmt.Errorf("%w: on Debian, apt-get install chromium", err)
	}
	driver, err := parts.BrowserDriver(ctx)
	if err != nil {
		return stop, err
	}
	program, err := parts.BuildPushproxy(ctx, s.dir, false)
	if err != nil {
		return stop, err
	}
	registry, err := parts.StartRegistry(ctx, s.dir, parts.RegistryConfig{Htpasswd: true})
	if err != nil {
		return stop, err
	}
	stops = append(stops, registry.Stop)
	link := httptest.NewServer(slowLink(registry.URL))
	stops = append(stops, func() { link.CloseClientConnections(); link.Close() })
	port, err := parts.FreePort()
	if err != nil {
		return stop, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if s.proxy, err = startProxy(ctx, s.dir, program, pictured, link.URL, []string{address}); err != nil {
		return stop, err
	}
	stops = append(stops, s.proxy.Stop)
	s.page = "http://" + address
	if s.browser, err = parts.StartBrowser(driver, chromium, append(os.Environ(), "HOME="+s.dir)); err != nil {
		return stop, err
	}
	stops = append(stops, s.browser.Stop)
	return stop, nil
}

// slowLink leads to a registry at 4 MB/s for each upload. One repository may not be pushed to, and one upload is
// refused for a while.
func slowLink(registry string) http.Handler {
	target, _ := url.Parse(registry) // of a registry that has just answered there
	next := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }, // when the scene is over
	}
	var refused atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Method == http.MethodPut || r.Method == http.MethodPatch
		switch {
		case r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/platform/"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"alice may not write to platform/secrets"}]}`)
			return
		case body && r.ContentLength == 1_600_000 && !refused.Swap(true):
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case body:
			r.Body = &slowBody{ReadCloser: r.Body, began: time.Now()}
		}
		next.ServeHTTP(w, r)
	})
}

type slowBody struct {
	io.ReadCloser
	n     int
	began time.Time
}

// Read implements io.Reader.
func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 32<<10)])
	b.n += n
	if wait := time.Until(b.began.Add(time.Duration(b.n) * time.Second / 4_000_000)); wait > 0 {
		<-time.After(wait)
	}
	return n, err
}
