package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pushproxy/tests/bench/link"
	"pushproxy/tests/parts"
)

// upstreamName is what pushproxy's configuration calls the upstream.
const upstreamName = "registry.test"

// target is an upstream: distribution, or the sink.
type target interface {
	address() string // host:port
	requests() int   // so far
	stop()
}

// scene is one side set up afresh: an upstream, the line before it, and pushproxy before that.
type scene struct {
	bench   *bench
	side    side
	dir     string
	target  target
	link    *link.Link // nil on loopback
	host    string     // what references begin with: localhost:PORT, and the upstream's name behind pushproxy
	url     string     // where the API is
	prefix  string     // of repositories there: "", or the upstream's name and a slash
	watched int        // process that is measured, 0 for none
	proxy   *parts.Pushproxy

	pictures []*image // of client pushes
	blobs    []blob   // of uploads by the program itself
	cleanup  []func()
}

// open sets a scene for one side.
func (b *bench) open(ctx context.Context, sd side) (s *scene, err error) {
	// What earlier turns wrote must not reach the disk during this one.
	syscall.Sync()
	b.scenes++
	s = &scene{bench: b, side: sd, dir: filepath.Join(b.dir, fmt.Sprint("scene", b.scenes))}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	s.cleanup = append(s.cleanup, func() { _ = os.RemoveAll(s.dir) })
	if err := s.openTarget(ctx); err != nil {
		return nil, err
	}
	address := s.target.address()
	if sd.line {
		if address, err = s.openLine(address); err != nil {
			return nil, err
		}
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	s.host, s.url = "localhost:"+port, "http://127.0.0.1:"+port
	if sd.proxied {
		return s, s.openProxy(ctx, s.url)
	}
	return s, nil
}

func (s *scene) openTarget(ctx context.Context) error {
	if s.side.sink {
		t, err := startSink()
		if err != nil {
			return err
		}
		s.target = t
	} else {
		t, err := startDistribution(ctx, s.bench.tools, s.dir, s.side.uncached)
		if err != nil {
			return err
		}
		s.target = t
		if s.side.server {
			s.watched = t.Pid()
		}
	}
	s.cleanup = append(s.cleanup, s.target.stop)
	return nil
}

// openLine puts the line before the upstream, open at first, and returns its address.
func (s *scene) openLine(target string) (string, error) {
	var d net.Dialer
	s.link = link.New(link.Profile{}, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", target) })
	s.cleanup = append(s.cleanup, s.link.Close)
	port, err := parts.FreePort()
	if err != nil {
		return "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for _, host := range []string{address, fmt.Sprintf("[::1]:%d", port)} {
		ln, err := net.Listen("tcp", host)
		if err != nil && host == address {
			return "", err
		}
		if err == nil { // a machine may be without IPv6
			go func() { _ = s.link.Serve(ln) }()
		}
	}
	return address, nil
}

func (s *scene) openProxy(ctx context.Context, upstream string) error {
	port, err := parts.FreePort()
	if err != nil {
		return err
	}
	config := s.bench.config(s.dir, port, upstream, s.side.storage)
	file := filepath.Join(s.dir, "pushproxy.yaml")
	if err := config.Write(file); err != nil {
		return err
	}
	p, err := parts.StartPushproxy(ctx, s.bench.program, file, port, cleanEnv(s.dir))
	if err != nil {
		return err
	}
	// Killed, not stopped: what it still forwards is of no interest.
	s.cleanup = append(s.cleanup, p.Kill)
	s.proxy, s.watched = p, p.Pid()
	s.host, s.url, s.prefix = fmt.Sprintf("localhost:%d/%s", port, upstreamName), p.URL, upstreamName+"/"
	return nil
}

// config is pushproxy as it comes, but for its place, its upstream and its storage.
func (b *bench) config(dir string, port int, upstream, storage string) parts.Config {
	return parts.Config{
		Listen:    []string{fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("[::1]:%d", port)},
		DataDir:   filepath.Join(dir, "data"),
		Upstreams: []parts.Upstream{{Host: upstreamName, URL: upstream}},
		Storage:   storage,
	}
}

// cleanEnv is the environment of clients and servers: a home of their own, nothing of this program's.
func cleanEnv(home string, more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, more...)
}

func (s *scene) close() {
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		s.cleanup[i]()
	}
	s.cleanup = nil
}

func (s *scene) setLine(p link.Profile) {
	if s.link != nil {
		s.link.Set(p)
	}
}

// seen returns what the upstream saw so far.
func (s *scene) seen() (requests int, sent int64) {
	if s.link != nil {
		sent, _ = s.link.Carried()
	}
	return s.target.requests(), sent
}

// settle waits until the upstream has seen nothing new for a while: what follows a push, such as cancelled uploads, counts
// too. A sink is not waited for: what goes there goes on for long.
func (s *scene) settle(ctx context.Context) {
	if s.side.sink {
		return
	}
	requests, sent := s.seen()
	quiet, tick := 0, time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); quiet < 6 && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r, b := s.seen()
		if quiet++; r != requests || b != sent {
			requests, sent, quiet = r, b, 0
		}
	}
}

// ref names an image the way clients do.
func (s *scene) ref(name string) string { return s.host + "/" + name }

// verify makes sure that the upstream itself has what was pushed: a tag, and whoever said so before it was there lied.
func (s *scene) verify(ctx context.Context, repo, tag string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+s.target.address()+"/v2/"+repo+"/manifests/"+tag, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", strings.Join([]string{manifestType, "application/vnd.docker.distribution.manifest.v2+json"}, ", "))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the push succeeded, but the upstream answers %s for %s:%s", resp.Status, repo, tag)
	}
	return nil
}

// explain adds the warnings of pushproxy's log to an error.
func (s *scene) explain(err error) error {
	if s.proxy == nil {
		return err
	}
	var lines []string
	for line := range strings.Lines(s.proxy.Output()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		return err
	}
	return errors.Join(err, errors.New("pushproxy says: "+lines[len(lines)-1]))
}
