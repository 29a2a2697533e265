// Package upstreamtest is a registry for tests: small, in memory and correct,
// until a field tells it to misbehave the way a real one does. It remembers the
// requests it received, since what an upstream sees is the contract under test.
//
// The zero Registry is ready to use, as an http.Handler of a server or, without
// any network and with a fake clock, through Transport.
package upstreamtest

import (
	"net/http"
	"regexp"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Registry is the fake. Its fields are set before the first request, or under
// no traffic; its methods are safe at any time.
type Registry struct {
	// MountAnswer is the status of every mount request; 0 is the correct one:
	// 201 when the source has the blob, else 202. 201 without the blob is a lie.
	MountAnswer int
	// MountDigest is what a 201 to a mount says in Docker-Content-Digest.
	MountDigest string
	// Fail decides about a request before anything else: 0 passes it, another
	// status is the answer.
	Fail func(*http.Request) int
	// Auth asks for credentials; nil asks for none.
	Auth *Auth
	// Location writes the Location of an upload session; nil writes path as it
	// is, path-absolute with its query.
	Location func(r *http.Request, path string) string
	// State puts a token into that query which must be echoed and which every
	// answer replaces, as distribution does.
	State bool

	RefusePut   int         // status for a PUT that carries a blob, such as 404
	RefusePatch int         // status for every PATCH
	RefuseChunk int         // status for a PATCH with Content-Range
	MaxBody     int64       // larger blob requests get 413; bytes, 0: no limit
	MaxChunk    int64       // larger PATCHes with Content-Range get 416; 0: no limit
	MinChunk    int64       // OCI-Chunk-Min-Length, and 400 for smaller ones but the last
	NoStatus    bool        // 404 for GET of a session
	NoCancel    bool        // 405 for DELETE of a session
	Commit      int         // status of a blob's closing PUT; 0: 201
	StoreNot    bool        // the closing PUT says so but stores nothing
	Digest      string      // Docker-Content-Digest of every answer that has one; "-": none has
	Plain       bool        // errors are text/plain
	NoReferrers bool        // 404 for referrers
	NoTagParam  bool        // ignores ?tag=
	Bare        bool        // manifests are answered without Content-Type
	NoDelete    bool        // 405 for deletes
	MissingCode string      // error code for a manifest that names an unknown blob; "": MANIFEST_BLOB_UNKNOWN
	Missing     int         // its status; 0: 404
	Header      http.Header // added to every answer

	mu       sync.Mutex
	repos    map[string]*repository
	sessions map[string]*session
	started  int
	faults   []*Fault
	log      []Request
	bytes    int64
	tokens   map[string]token
	issued   int
}

type repository struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

type manifest struct {
	mediaType string
	raw       []byte
}

var routes = []struct {
	exp    *regexp.Regexp
	handle func(*Registry, http.ResponseWriter, *http.Request, []string)
}{
	{regexp.MustCompile(`^/v2/(.+)/blobs/uploads/$`), (*Registry).start},
	{regexp.MustCompile(`^/v2/(.+)/blobs/uploads/([^/]+)$`), (*Registry).session},
	{regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`), (*Registry).blob},
	{regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`), (*Registry).manifest},
	{regexp.MustCompile(`^/v2/(.+)/tags/list$`), (*Registry).tagList},
	{regexp.MustCompile(`^/v2/(.+)/referrers/([^/]+)$`), (*Registry).referrers},
}

// ServeHTTP answers a request of the distribution API.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.record(req)
	for name, values := range r.Header {
		w.Header()[name] = values
	}
	if r.Fail != nil {
		if status := r.Fail(req); status != 0 {
			r.fail(w, status, "UNKNOWN", "told to fail")
			return
		}
	}
	w, stop := r.inject(w, req)
	if stop {
		return
	}
	if req.URL.Path == "/token" && r.Auth != nil {
		r.token(w, req)
		return
	}
	if !r.authorised(w, req) {
		return
	}
	if req.URL.Path == "/v2/" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
		return
	}
	for _, route := range routes {
		if m := route.exp.FindStringSubmatch(req.URL.Path); m != nil {
			route.handle(r, w, req, m[1:])
			return
		}
	}
	r.fail(w, http.StatusNotFound, "UNSUPPORTED", "no such end-point")
}

// repo returns a repository, which a write makes; it needs r.mu.
func (r *Registry) repo(name string) *repository {
	if r.repos == nil {
		r.repos = map[string]*repository{}
	}
	if r.repos[name] == nil {
		r.repos[name] = &repository{map[digest.Digest][]byte{}, map[digest.Digest]manifest{}, map[string]digest.Digest{}}
	}
	return r.repos[name]
}

// AddBlob stores a blob and returns its sha256 digest.
func (r *Registry) AddBlob(name string, blob []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(blob)
	r.repo(name).blobs[d] = blob
	return d
}

// AddManifest stores a manifest under a tag, or under no tag when it is "",
// without asking for what it references, and returns its sha256 digest.
func (r *Registry) AddManifest(name, tag, mediaType string, raw []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(raw)
	r.repo(name).manifests[d] = manifest{mediaType, raw}
	if tag != "" {
		r.repo(name).tags[tag] = d
	}
	return d
}

// Blob returns a stored blob.
func (r *Registry) Blob(name string, d digest.Digest) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.repo(name).blobs[d]
	return b, ok
}

// Manifest returns the bytes and the media type that a tag or digest names.
func (r *Registry) Manifest(name, reference string) (raw []byte, mediaType string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, m, ok := r.lookup(name, reference)
	return m.raw, m.mediaType, ok
}

// Forget removes a blob from every repository, as a garbage collection would.
func (r *Registry) Forget(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, repo := range r.repos {
		delete(repo.blobs, d)
	}
}

// Sessions returns how many uploads are open.
func (r *Registry) Sessions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}
