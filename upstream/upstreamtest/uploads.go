package upstreamtest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

type session struct {
	id, repo string
	data     []byte
	state    int
}

// start answers POST: a mount, or a new session.
func (r *Registry) start(w http.ResponseWriter, req *http.Request, m []string) {
	if req.Method != http.MethodPost {
		r.fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "only POST")
		return
	}
	q := req.URL.Query()
	if d := digest.Digest(q.Get("mount")); d != "" && r.mount(w, req, m[0], d, q.Get("from")) {
		return
	}
	r.mu.Lock()
	r.started++
	s := &session{id: fmt.Sprintf("u%d", r.started), repo: m[0]}
	if r.sessions == nil {
		r.sessions = map[string]*session{}
	}
	r.sessions[s.id] = s
	r.mu.Unlock()
	if r.MinChunk > 0 {
		w.Header().Set("OCI-Chunk-Min-Length", strconv.FormatInt(r.MinChunk, 10))
	}
	r.accepted(w, req, s, http.StatusAccepted)
}

// mount reports whether it answered; if not, a session is opened instead.
func (r *Registry) mount(w http.ResponseWriter, req *http.Request, name string, d digest.Digest, from string) bool {
	r.mu.Lock()
	blob, ok := r.repo(from).blobs[d]
	ok = ok && r.mayPull(req, from)
	status := r.MountAnswer
	if status == 0 && ok {
		status = http.StatusCreated
		r.repo(name).blobs[d] = blob
	}
	r.mu.Unlock()
	switch status {
	case 0, http.StatusAccepted:
		return false
	case http.StatusCreated:
		said := r.MountDigest
		if said == "" {
			said = d.String()
		}
		w.Header().Set("Location", "/v2/"+name+"/blobs/"+d.String())
		r.named(w, said)
		w.WriteHeader(http.StatusCreated)
	default:
		r.fail(w, status, "UNKNOWN", "no mount today")
	}
	return true
}

// session answers everything about one upload.
func (r *Registry) session(w http.ResponseWriter, req *http.Request, m []string) {
	r.mu.Lock()
	s := r.sessions[m[1]]
	stale := s != nil && r.State && req.URL.Query().Get("_state") != strconv.Itoa(s.state)
	r.mu.Unlock()
	switch {
	case s == nil || s.repo != m[0]:
		r.fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
	case stale:
		r.fail(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "state is not the newest")
	case req.Method == http.MethodPatch:
		r.patch(w, req, s)
	case req.Method == http.MethodPut:
		r.put(w, req, s)
	case req.Method == http.MethodGet && !r.NoStatus:
		r.accepted(w, req, s, http.StatusNoContent)
	case req.Method == http.MethodGet:
		r.fail(w, http.StatusNotFound, "UNSUPPORTED", "no upload status")
	case req.Method == http.MethodDelete && !r.NoCancel:
		r.end(s)
		w.WriteHeader(http.StatusNoContent)
	default:
		r.fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "not here")
	}
}

func (r *Registry) end(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s.id)
}

// accepted answers with where the session is and how far.
func (r *Registry) accepted(w http.ResponseWriter, req *http.Request, s *session, status int) {
	r.mu.Lock()
	s.state++
	path := "/v2/" + s.repo + "/blobs/uploads/" + s.id
	if r.State {
		path += "?_state=" + strconv.Itoa(s.state)
	}
	last := max(0, len(s.data)-1)
	r.mu.Unlock()
	if r.Location != nil {
		path = r.Location(req, path)
	}
	w.Header().Set("Location", path)
	w.Header().Set("Range", "0-"+strconv.Itoa(last))
	w.WriteHeader(status)
}

func (r *Registry) patch(w http.ResponseWriter, req *http.Request, s *session) {
	ranged := req.Header.Get("Content-Range")
	switch {
	case r.RefusePatch != 0:
		r.fail(w, r.RefusePatch, "UNSUPPORTED", "no PATCH")
	case ranged != "" && r.RefuseChunk != 0:
		r.fail(w, r.RefuseChunk, "UNSUPPORTED", "no chunks")
	case r.MaxBody > 0 && req.ContentLength > r.MaxBody:
		r.fail(w, http.StatusRequestEntityTooLarge, "UNKNOWN", "body too large")
	case ranged != "" && r.MaxChunk > 0 && req.ContentLength > r.MaxChunk:
		r.fail(w, http.StatusRequestedRangeNotSatisfiable, "UNKNOWN", "chunk too large")
	case !r.inOrder(req, s):
		r.fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "out of order")
	case !r.receive(w, req, s):
	default:
		r.accepted(w, req, s, http.StatusAccepted)
	}
}

// inOrder reports whether a Content-Range starts where the session ends.
func (r *Registry) inOrder(req *http.Request, s *session) bool {
	ranged := req.Header.Get("Content-Range")
	if ranged == "" {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from, _, _ := strings.Cut(ranged, "-")
	return from == strconv.Itoa(len(s.data))
}

// receive appends the request's body to the session, also what comes before a
// body breaks off.
func (r *Registry) receive(w http.ResponseWriter, req *http.Request, s *session) bool {
	buf := make([]byte, 32<<10)
	for {
		n, err := req.Body.Read(buf)
		r.mu.Lock()
		s.data = append(s.data, buf[:n]...)
		r.bytes += int64(n)
		r.mu.Unlock()
		switch err {
		case nil:
		case io.EOF:
			return true
		case errReset:
			panic(http.ErrAbortHandler)
		default:
			r.fail(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "body broke off")
			return false
		}
	}
}

func (r *Registry) put(w http.ResponseWriter, req *http.Request, s *session) {
	d, err := digest.Parse(req.URL.Query().Get("digest"))
	switch {
	case err != nil:
		r.fail(w, http.StatusBadRequest, "DIGEST_INVALID", "no digest")
		return
	case req.ContentLength != 0 && r.RefusePut != 0:
		r.fail(w, r.RefusePut, "UNSUPPORTED", "no PUT with a body")
		return
	case r.MaxBody > 0 && req.ContentLength > r.MaxBody:
		r.fail(w, http.StatusRequestEntityTooLarge, "UNKNOWN", "body too large")
		return
	case !r.inOrder(req, s):
		r.fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "out of order")
		return
	case !r.receive(w, req, s):
		return
	}
	r.mu.Lock()
	right := d.Algorithm().FromBytes(s.data) == d
	if right && !r.StoreNot {
		r.repo(s.repo).blobs[d] = s.data
	}
	delete(r.sessions, s.id)
	r.mu.Unlock()
	if !right {
		r.fail(w, http.StatusBadRequest, "DIGEST_INVALID", "content has another digest")
		return
	}
	w.Header().Set("Location", "/v2/"+s.repo+"/blobs/"+d.String())
	r.named(w, d.String())
	status := r.Commit
	if status == 0 {
		status = http.StatusCreated
	}
	w.WriteHeader(status)
}
