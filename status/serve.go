package status

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// api adds the JSON, the stream and the actions.
func (s *Server) api(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/status", answer(func(r *http.Request) (any, error) { return s.snapshot(viewerOf(r)), nil }))
	mux.HandleFunc("GET /v1/pushes", answer(s.list))
	mux.HandleFunc("GET /v1/pushes/{id}", answer(func(r *http.Request) (any, error) {
		p, ok := s.push(viewerOf(r), r.PathValue("id"))
		if !ok {
			return nil, unknownPush(r.PathValue("id"))
		}
		return p, nil
	}))
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("POST /v1/jobs/{id}/retry", s.act(s.retry))
	mux.HandleFunc("POST /v1/jobs/{id}/drop", s.act(s.dropJob))
	mux.HandleFunc("DELETE /v1/jobs/{id}", s.act(s.dropJob))
	mux.HandleFunc("POST /v1/gc", s.act(s.collect))
	well := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	}
	mux.HandleFunc("GET /livez", well)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.Tracker != nil {
			select {
			case <-s.Tracker.done:
				oci.Write(w, oci.ErrUpstream.With("pushproxy is stopping"))
				return
			default:
			}
		}
		well(w, r)
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		oci.Write(w, oci.ErrNotFound.With("there is no %s %s; docs/status-api.md lists what there is", clip(r.Method), clip(r.URL.Path)))
	})
}

func unknownPush(id string) error {
	return oci.ErrNotFound.With("there is no push %s, or it was too long ago; GET /v1/pushes lists what is known", clip(id))
}

// answer makes a handler of what returns something to encode, or an error.
func answer(handle func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := handle(r)
		if err != nil {
			oci.Write(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		// Whoever asked may be gone.
		_ = json.NewEncoder(w).Encode(v)
	}
}

// act is answer for what changes something: a form of the page is sent back to
// where it came from.
func (s *Server) act(handle func(*http.Request) (any, error)) http.HandlerFunc {
	asJSON := answer(handle)
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			asJSON(w, r)
			return
		}
		if _, err := handle(r); err != nil {
			e := oci.AsError(err)
			s.problem(w, e.Status, e.Message)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

// states are those that a list of finished pushes can be asked for.
var states = []string{string(Done), string(Unchanged), string(Failed), string(Stopped)}

// list returns finished pushes.
func (s *Server) list(r *http.Request) (any, error) {
	q := Query{}
	for name, values := range r.URL.Query() {
		value := values[0]
		switch name {
		case "q":
			q.Text = value
		case "state":
			if q.State = value; value != "" && !slices.Contains(states, value) {
				return nil, badQuery("state: %q is not one of %s", clip(value), strings.Join(states, ", "))
			}
		case "before":
			q.Before = value
		case "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > mostListed {
				return nil, badQuery("limit: %q is not a number from 1 to %d", clip(value), mostListed)
			}
			q.Limit = n
		default:
			return nil, badQuery("%s: there is no such parameter; there are q, state, before and limit", clip(name))
		}
		if len(values) > 1 {
			return nil, badQuery("%s: it is given more than once", clip(name))
		}
	}
	if q.Before != "" {
		if p, ok := s.push(viewerOf(r), q.Before); !ok || p.Finished.IsZero() {
			return nil, badQuery("before: there is no finished push %s; give the next of an earlier answer", clip(q.Before))
		}
	}
	pushes, next := s.finished(viewerOf(r), q)
	return map[string]any{"pushes": pushes, "next": next}, nil
}

func badQuery(format string, args ...any) error {
	e := *oci.ErrUnsupported.With(format, args...)
	e.Status = http.StatusBadRequest
	return &e
}

// job returns a job's id if the viewer may act on it. One of somebody else is
// not there.
func (s *Server) job(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if s.Queue != nil {
		for _, j := range s.Queue.Jobs() {
			if j.ID == id && viewerOf(r).sees(j.Principal) {
				return id, nil
			}
		}
	}
	return "", oci.ErrNotFound.With("there is no job %s; it is done or was dropped", clip(id))
}

func (s *Server) retry(r *http.Request) (any, error) {
	id, err := s.job(r)
	if err != nil {
		return nil, err
	}
	j, err := s.Queue.Retry(r.Context(), id, false)
	return s.shownJob(j), err
}

func (s *Server) dropJob(r *http.Request) (any, error) {
	id, err := s.job(r)
	if err != nil {
		return nil, err
	}
	j, err := s.Queue.Drop(r.Context(), id)
	return s.shownJob(j), err
}

// shownJob returns a job as the queue has it, or as it was when it went.
func (s *Server) shownJob(j metadata.Job) Job {
	for _, listed := range s.Queue.List() {
		if listed.ID == j.ID {
			return jobOf(listed)
		}
	}
	out := Job{
		ID: j.ID, Push: j.Push, Principal: j.Principal, Upstream: j.Repo.Host, Repository: j.Repo.Name, Reference: j.Digest.String(),
		State: "dropped", Tries: j.Attempts, Since: j.Created, Why: j.Error,
	}
	if len(j.Tags) > 0 {
		out.Reference = j.Tags[0]
	}
	return out
}

func (s *Server) collect(r *http.Request) (any, error) {
	if !viewerOf(r).All || s.Collect == nil {
		return nil, oci.ErrDenied.With("the store is collected by the owner of this pushproxy: ask as that user")
	}
	return s.Collect(r.Context())
}

// clip bounds text from elsewhere before it is repeated, in bytes.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
