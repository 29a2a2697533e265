package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/proxy"
)

// adminSocket is where a running pushproxy takes its user's orders: JSON over
// HTTP, for nobody but them.
func adminSocket(dataDir string) string { return filepath.Join(dataDir, "admin.sock") }

// admin answers on the socket.
type admin struct {
	queue     *forward.Queue
	cache     *blobcache.Cache
	meta      *metadata.DB
	upstreams *upstreams
	collector *collector
	metrics   http.Handler
	status    http.Handler // of what is not an order; nil: nothing
}

// listenAdmin opens the socket. The directory is the user's alone and its lock
// is held, so a socket that is there already is a dead one. Without it, nil,
// everything but the commands that need it works.
func listenAdmin(dataDir string, log *slog.Logger) net.Listener {
	l, err := openSocket(dataDir)
	if err != nil {
		log.Warn("no orders can be taken: pushproxy queue, wait, gc and fsck will not work while this runs", "error", err)
		return nil
	}
	return l
}

func openSocket(dataDir string) (net.Listener, error) {
	path := adminSocket(dataDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// work sends what is queued, keeps the cache within its limits and takes orders,
// until ctx ends.
func (a *admin) work(ctx context.Context, l net.Listener, news *herald) {
	var tasks sync.WaitGroup
	for _, task := range []func(context.Context){
		a.queue.Run, news.run, a.collector.run, func(ctx context.Context) { a.serve(ctx, l, news.log) },
	} {
		tasks.Go(func() { steadily(ctx, news.log, task) })
	}
	tasks.Wait()
}

// serve takes orders on the socket, which may be nil, until ctx ends.
func (a *admin) serve(ctx context.Context, l net.Listener, log *slog.Logger) {
	if l == nil {
		return
	}
	orders := newGate(a.handler())
	server := &http.Server{Handler: orders, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	// An order that is carried out ends with ctx, and before the databases.
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Warn("no more orders are taken", "error", err)
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointFor)
	defer cancel()
	if err := orders.close(rest); err != nil {
		log.Warn("an order did not end", "error", err)
	}
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(pattern string, handle func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := handle(r)
			if err != nil {
				oci.Write(w, err)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			// Whoever asked may be gone.
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	answer("GET /v1/jobs", func(*http.Request) (any, error) { return shownJobs(a.queue.Jobs()), nil })
	answer("GET /v1/jobs/{id}", func(r *http.Request) (any, error) {
		for _, j := range a.queue.Jobs() {
			if j.ID == r.PathValue("id") {
				return shownJob(j), nil
			}
		}
		return nil, oci.ErrNotFound.With("there is no job %s; it is done, or was dropped: pushproxy queue ls lists the jobs there are", r.PathValue("id"))
	})
	answer("POST /v1/jobs/{id}/retry", func(r *http.Request) (any, error) {
		j, err := a.queue.Retry(r.Context(), r.PathValue("id"), r.URL.Query().Get("adopt") == "true")
		return shownJob(j), err
	})
	answer("DELETE /v1/jobs/{id}", func(r *http.Request) (any, error) {
		j, err := a.queue.Drop(r.Context(), r.PathValue("id"))
		return shownJob(j), err
	})
	answer("POST /v1/gc", func(r *http.Request) (any, error) {
		return a.collector.collect(r.Context(), r.URL.Query().Get("dry-run") == "true")
	})
	answer("POST /v1/fsck", func(r *http.Request) (any, error) {
		percent, err := strconv.ParseFloat(r.URL.Query().Get("read-data"), 64)
		if err != nil {
			return nil, oci.ErrUnsupported.With("read-data is a percentage")
		}
		return checkStores(r.Context(), a.cache, a.meta, percent)
	})
	mux.HandleFunc("GET /v1/wait", a.wait)
	mux.Handle("GET /metrics", a.metrics)
	// The socket is closed as soon as the program is told to stop.
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	if a.status != nil {
		mux.Handle("/", a.status)
	}
	return mux
}

// jobView is a job as it is shown to people and scripts.
type jobView struct {
	ID         string     `json:"id"`
	Push       string     `json:"push,omitempty"` // what pushproxy status explains
	State      string     `json:"state"`
	Repository string     `json:"repository"`
	Tags       []string   `json:"tags"`
	Superseded []string   `json:"superseded,omitempty"`
	Digest     string     `json:"digest"`
	MediaType  string     `json:"media_type"`
	Principal  string     `json:"principal"`
	Credential string     `json:"credential,omitempty"`
	Attempts   int        `json:"attempts"`
	NotBefore  *time.Time `json:"not_before,omitempty"`
	Error      string     `json:"error,omitempty"`
	Created    time.Time  `json:"created"`
	Updated    time.Time  `json:"updated"`
}

func shownJob(j metadata.Job) jobView {
	v := jobView{
		ID: j.ID, Push: j.Push, State: j.State, Repository: j.Repo.String(), Tags: j.Tags, Superseded: j.Superseded, Digest: j.Digest.String(), MediaType: j.MediaType,
		Principal: j.Principal, Credential: j.Credential, Attempts: j.Attempts, Error: j.Error, Created: j.Created, Updated: j.Updated,
	}
	if v.Tags == nil {
		v.Tags = []string{}
	}
	if !j.NotBefore.IsZero() {
		v.NotBefore = &j.NotBefore
	}
	return v
}

func shownJobs(jobs []metadata.Job) []jobView {
	views := make([]jobView, 0, len(jobs))
	for _, j := range jobs {
		views = append(views, shownJob(j))
	}
	return views
}

// waited is one line of the answer to a wait: news of a job, and at last how it
// ended.
type waited struct {
	Job    *jobView `json:"job,omitempty"`
	Done   bool     `json:"done,omitempty"`
	Digest string   `json:"digest,omitempty"` // what the upstream has
	Error  string   `json:"error,omitempty"`
}

// wait answers with lines of JSON until the upstream has what a reference names,
// or a person is needed.
func (a *admin) wait(w http.ResponseWriter, r *http.Request) {
	repo, reference, err := a.reference(r.Context(), r.URL.Query().Get("ref"))
	if err != nil {
		oci.Write(w, err)
		return
	}
	encoder, control := json.NewEncoder(w), http.NewResponseController(w)
	say := func(line waited) {
		// Whoever asked may be gone.
		_ = errors.Join(encoder.Encode(line), control.Flush())
	}
	say(a.outcome(r.Context(), repo, reference, func(j metadata.Job) {
		view := shownJob(j)
		say(waited{Job: &view})
	}))
}

// told is an error as clients are told it: without what led to it.
func told(err error) string {
	var e *oci.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// outcome waits for the jobs of a reference and then asks the upstream: what it
// has is the truth.
func (a *admin) outcome(ctx context.Context, repo oci.Repo, reference string, seen func(metadata.Job)) waited {
	stuck, err := a.queue.Wait(ctx, repo, reference, seen)
	if err != nil {
		return waited{Error: told(err)}
	}
	if stuck != nil {
		view := shownJob(*stuck)
		return waited{Job: &view, Error: stuck.Error}
	}
	t, err := a.upstreams.target(ctx, proxy.Local, repo.Host)
	if err != nil {
		return waited{Error: told(err)}
	}
	d, found, err := t.Client.HeadManifest(ctx, repo, reference, oci.ManifestTypes)
	switch {
	case err != nil:
		return waited{Error: told(err)}
	case !found:
		return waited{Error: fmt.Sprintf("%s does not have %s and nothing about it is queued", repo.Host, repo.Name+":"+reference)}
	}
	return waited{Done: true, Digest: d.Digest.String()}
}

// reference reads an image as it is written in a push, or the ID of a job.
func (a *admin) reference(ctx context.Context, text string) (repo oci.Repo, reference string, err error) {
	for _, j := range a.queue.Jobs() {
		if j.ID == text {
			return j.Repo, j.Digest.String(), nil
		}
	}
	name, digest, byDigest := strings.Cut(withoutDoor(text), "@")
	reference = digest
	if !byDigest {
		if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
			name, reference = name[:i], name[i+1:]
		} else {
			reference = "latest"
		}
	}
	repo, err = a.upstreams.routes().Route(ctx, "", name)
	return repo, reference, err
}

// withoutDoor takes the address of the registry door from the name of an image.
func withoutDoor(text string) string {
	text = strings.TrimPrefix(strings.TrimPrefix(text, "http://"), "https://")
	first, rest, found := strings.Cut(text, "/")
	host, _, err := net.SplitHostPort(first)
	if found && err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback()) {
		return rest
	}
	return text
}
