package upstreamtest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Request is one request that was received.
type Request struct {
	Method string
	Host   string
	Path   string
	Query  url.Values
	Header http.Header
}

// String returns the method, the path and the sorted names of the query, such
// as "POST /v2/acme/app/blobs/uploads/?from&mount".
func (q Request) String() string {
	s := q.Method + " " + q.Path
	if len(q.Query) > 0 {
		keys := make([]string, 0, len(q.Query))
		for key := range q.Query {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		s += "?" + strings.Join(keys, "&")
	}
	return s
}

func (r *Registry) record(req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, Request{req.Method, req.Host, req.URL.Path, req.URL.Query(), req.Header.Clone()})
}

// Requests returns what was received, in order, in the form of Request.String.
// Sessions are numbered u1, u2, …, so that the list is the same each time.
func (r *Registry) Requests() []string {
	var list []string
	for _, q := range r.Log() {
		list = append(list, q.String())
	}
	return list
}

// Log returns what was received, in order.
func (r *Registry) Log() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Bytes returns how many bytes of blobs were received.
func (r *Registry) Bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Reset forgets the requests and the bytes, not the content.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log, r.bytes = nil, 0
}

// fail answers with an error in the specification's format, or in text.
func (r *Registry) fail(w http.ResponseWriter, status int, code, message string) {
	if r.Plain {
		http.Error(w, message, status)
		return
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, _ := json.Marshal(map[string][]item{"errors": {{code, message}}})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// named sets Docker-Content-Digest.
func (r *Registry) named(w http.ResponseWriter, d string) {
	switch r.Digest {
	case "":
		w.Header().Set("Docker-Content-Digest", d)
	case "-":
	default:
		w.Header().Set("Docker-Content-Digest", r.Digest)
	}
}
