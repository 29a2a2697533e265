// Package torture breaks a running pushproxy in every way that can be thought of,
// and checks each push that it acknowledged against a model of the upstream. The
// counts are flags: few by default, for every run of the tests; many for
// make torture.
package torture

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Model is an upstream that does right by default and remembers everything.
type Model struct {
	// Fault decides about each request: what it returns is done instead of the
	// right thing. Nil or 0: nothing.
	Fault func(r *http.Request) Fault
	// TokenLife is how long tokens are said to be good for; 0: none is asked for.
	TokenLife time.Duration
	// MaxBody is the largest body that is taken, in bytes; 0: any.
	MaxBody int64
	// Pace is how long it takes to receive 64 KiB of a blob.
	Pace time.Duration

	mu        sync.Mutex
	blobs     map[string][]byte   // repository@digest
	manifests map[string][]byte   // repository@digest
	tags      map[string]string   // repository:tag
	history   map[string][]string // repository:tag → digests, as they were written
	sessions  map[string][]byte
	users     map[string]int // of sessions, numbered: the last one's bytes count
	next      int
	received  int64 // bytes of blobs
	receiving int   // bodies at present
	most      int   // … at once
	largest   int64 // body, in bytes
	cut       chan struct{}
	password  string
	tokens    map[string]time.Time
	issued    int // tokens
	expired   int // … that were used too late
}

// Fault is what a request meets.
type Fault int

// The faults. Those above 99 are the status of the answer.
const (
	None     Fault = iota
	Reset          // the connection is cut at once
	Cut            // … at a random byte of the body
	Lost           // … after all was done
	Lie            // another digest is said to have been stored, and nothing is
	StoreNot       // 201, and nothing is stored
	Forget         // the session is lost
)

// NewModel returns an empty upstream.
func NewModel() *Model {
	return &Model{blobs: map[string][]byte{}, manifests: map[string][]byte{}, tags: map[string]string{}, history: map[string][]string{}, sessions: map[string][]byte{}, users: map[string]int{}, cut: make(chan struct{}), password: Password}
}

var (
	uploadsExp  = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/([^/]*)$`)
	blobExp     = regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`)
	manifestExp = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
)

// digestOf returns the sha256 digest of bytes.
func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ServeHTTP implements http.Handler.
func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := None
	if m.Fault != nil {
		fault = m.Fault(r)
	}
	switch {
	case fault == Reset:
		panic(http.ErrAbortHandler)
	case fault > 99:
		if fault == 429 || fault == 503 {
			w.Header().Set("Retry-After", "1")
		}
		fail(w, int(fault), "UNKNOWN")
		return
	case fault == Lost:
		defer panic(http.ErrAbortHandler)
	}
	if !m.admitted(w, r) || r.URL.Path == "/v2/" {
		return
	}
	if x := uploadsExp.FindStringSubmatch(r.URL.Path); x != nil {
		m.upload(w, r, x[1], x[2], fault)
	} else if x := blobExp.FindStringSubmatch(r.URL.Path); x != nil {
		m.mu.Lock()
		b, ok := m.blobs[x[1]+"@"+x[2]]
		m.mu.Unlock()
		serve(w, r, b, ok, x[2], "application/octet-stream", "BLOB_UNKNOWN")
	} else if x := manifestExp.FindStringSubmatch(r.URL.Path); x != nil {
		m.manifest(w, r, x[1], x[2], fault)
	} else {
		fail(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"model"}]}`, code)
}

func serve(w http.ResponseWriter, r *http.Request, b []byte, ok bool, digest, mediaType, code string) {
	if !ok {
		fail(w, http.StatusNotFound, code)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(b)
	}
}

func (m *Model) upload(w http.ResponseWriter, r *http.Request, repo, id string, fault Fault) {
	if r.Method == http.MethodPost {
		m.mu.Lock()
		m.next++
		id = strconv.Itoa(m.next)
		m.sessions[id] = nil
		m.mu.Unlock()
		m.at(w, repo, id, http.StatusAccepted)
		return
	}
	if fault == Forget {
		m.end(id)
	}
	m.mu.Lock()
	have, ok := m.sessions[id]
	m.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		return
	}
	switch r.Method {
	case http.MethodGet:
		m.mu.Lock()
		m.users[id]++
		m.mu.Unlock()
		m.at(w, repo, id, http.StatusNoContent)
		return
	case http.MethodDelete:
		m.end(id)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if from, _, ranged := strings.Cut(r.Header.Get("Content-Range"), "-"); ranged && from != strconv.Itoa(len(have)) {
		fail(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
		return
	}
	if m.MaxBody > 0 && r.ContentLength > m.MaxBody {
		fail(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID")
		return
	}
	if !m.receive(r, id, fault) {
		panic(http.ErrAbortHandler)
	}
	if r.Method == http.MethodPatch {
		m.at(w, repo, id, http.StatusAccepted)
		return
	}
	m.finish(w, r, repo, id, fault)
}

// finish ends a session with a digest.
func (m *Model) finish(w http.ResponseWriter, r *http.Request, repo, id string, fault Fault) {
	m.mu.Lock()
	data, want := m.sessions[id], r.URL.Query().Get("digest")
	right := digestOf(data) == want
	if right && fault != Lie && fault != StoreNot {
		m.blobs[repo+"@"+want] = data
	}
	m.mu.Unlock()
	m.end(id)
	said := want
	if fault == Lie {
		said = digestOf([]byte("a lie"))
	}
	if !right {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	w.Header().Set("Docker-Content-Digest", said)
	w.Header().Set("Location", "/v2/"+repo+"/blobs/"+want)
	w.WriteHeader(http.StatusCreated)
}

// receive appends a body to a session, as much as comes of it.
func (m *Model) receive(r *http.Request, id string, fault Fault) bool {
	body := io.Reader(r.Body)
	if fault == Cut && r.ContentLength > 0 {
		body = io.LimitReader(body, rand.Int64N(r.ContentLength))
	}
	m.mu.Lock()
	m.users[id]++
	user, cut := m.users[id], m.cut
	if r.ContentLength != 0 {
		m.receiving++
		m.most = max(m.most, m.receiving)
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.receiving--
		}()
	}
	m.mu.Unlock()
	buf := make([]byte, 64<<10)
	for paced, total := 0, int64(0); ; {
		n, err := body.Read(buf)
		total += int64(n)
		select {
		case <-cut:
			return false
		default:
		}
		for paced += n; m.Pace > 0 && paced >= len(buf); paced -= len(buf) {
			<-time.After(m.Pace)
		}
		if m.MaxBody > 0 && total > m.MaxBody {
			return false
		}
		m.mu.Lock()
		m.received += int64(n)
		m.largest = max(m.largest, total)
		if m.users[id] != user {
			// Its client has gone and came back already.
			m.mu.Unlock()
			return false
		}
		m.sessions[id] = append(m.sessions[id], buf[:n]...)
		m.mu.Unlock()
		if err != nil {
			return err == io.EOF && fault != Cut
		}
	}
}

func (m *Model) end(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sessions, id)
}

func (m *Model) at(w http.ResponseWriter, repo, id string, status int) {
	m.mu.Lock()
	n := len(m.sessions[id])
	m.mu.Unlock()
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	w.Header().Set("Range", "0-"+strconv.Itoa(max(0, n-1)))
	w.WriteHeader(status)
}
