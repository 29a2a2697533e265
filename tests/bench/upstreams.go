package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"pushproxy/tests/parts"
)

// distribution is a running registry as its makers configure it (cmd/registry/config-example.yml), without a password.
// That keeps what it knows of blobs in memory, unless uncached.
type distribution struct {
	*parts.Process
	host string
}

func startDistribution(ctx context.Context, tools, dir string, uncached bool) (*distribution, error) {
	port, err := parts.FreePort()
	if err != nil {
		return nil, err
	}
	d := &distribution{host: fmt.Sprintf("127.0.0.1:%d", port)}
	file := filepath.Join(dir, "registry.yml")
	if err := d.configure(dir, file, uncached); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(tools, "registry"), "serve", file)
	// distribution v3 sends traces to localhost:4318 unless told not to.
	cmd.Env = cleanEnv(dir, "OTEL_TRACES_EXPORTER=none")
	if d.Process, err = parts.Start(cmd); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if err := d.Ready(ctx, parts.Answers(client, "http://"+d.host+"/v2/")); err != nil {
		d.Kill()
		return nil, err
	}
	return d, nil
}

func (d *distribution) configure(dir, file string, uncached bool) error {
	storage := map[string]any{
		"filesystem": map[string]any{"rootdirectory": filepath.Join(dir, "storage")},
		"tag":        map[string]any{"concurrencylimit": 8},
	}
	if !uncached {
		storage["cache"] = map[string]any{"blobdescriptor": "inmemory"}
	}
	config, err := json.Marshal(map[string]any{ // JSON is YAML
		"version": 0.1,
		"log":     map[string]any{"level": "warn"},
		"http":    map[string]any{"addr": d.host, "headers": map[string]any{"X-Content-Type-Options": []string{"nosniff"}}},
		"storage": storage,
		"health":  map[string]any{"storagedriver": map[string]any{"enabled": true, "interval": "10s", "threshold": 3}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, config, 0o600)
}

func (d *distribution) address() string { return d.host }

func (d *distribution) stop() { d.Kill() }

// requests counts the lines of the access log.
func (d *distribution) requests() int { return strings.Count(d.Output(), " HTTP/1.1\" ") }

// sink takes uploads and keeps nothing: what is sent there shows what the line and the sender can do.
type sink struct {
	server *http.Server
	host   string
	seen   atomic.Int64
}

func startSink() (*sink, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{host: ln.Addr().String()}
	s.server = &http.Server{Handler: s}
	go func() { _ = s.server.Serve(ln) }()
	return s, nil
}

func (s *sink) address() string { return s.host }

func (s *sink) requests() int { return int(s.seen.Load()) }

func (s *sink) stop() { _ = s.server.Close() }

// ServeHTTP is just enough of the distribution API for pushes: every upload and manifest is taken, nothing is there before.
func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.seen.Add(1)
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	switch uploads := strings.Contains(r.URL.Path, "/blobs/uploads/"); {
	case r.Method == http.MethodPost:
		w.Header().Set("Location", r.URL.Path+fmt.Sprint(s.seen.Load()))
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPatch:
		w.Header().Set("Location", r.URL.Path)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(n-1, 0)))
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut:
		w.Header().Set("Location", r.URL.Path)
		if uploads {
			w.Header().Set("Docker-Content-Digest", r.URL.Query().Get("digest"))
		}
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/v2/":
	default:
		http.NotFound(w, r)
	}
}
