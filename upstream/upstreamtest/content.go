package upstreamtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

func (r *Registry) blob(w http.ResponseWriter, req *http.Request, m []string) {
	d := digest.Digest(m[1])
	blob, ok := r.Blob(m[0], d)
	switch {
	case req.Method == http.MethodDelete && r.NoDelete:
		r.fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "no deletes")
	case !ok:
		r.fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "no such blob")
	case req.Method == http.MethodDelete:
		r.mu.Lock()
		delete(r.repo(m[0]).blobs, d)
		r.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	default:
		r.named(w, d.String())
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
	}
}

// lookup needs r.mu.
func (r *Registry) lookup(name, reference string) (digest.Digest, manifest, bool) {
	d := digest.Digest(reference)
	if tagged, ok := r.repo(name).tags[reference]; ok {
		d = tagged
	}
	m, ok := r.repo(name).manifests[d]
	return d, m, ok
}

func (r *Registry) manifest(w http.ResponseWriter, req *http.Request, m []string) {
	if req.Method == http.MethodPut {
		r.putManifest(w, req, m[0], m[1])
		return
	}
	r.mu.Lock()
	d, found, ok := r.lookup(m[0], m[1])
	if ok && req.Method == http.MethodDelete && !r.NoDelete {
		if delete(r.repo(m[0]).tags, m[1]); m[1] == d.String() {
			delete(r.repo(m[0]).manifests, d)
		}
	}
	r.mu.Unlock()
	switch {
	case req.Method == http.MethodDelete && r.NoDelete:
		r.fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "no deletes")
	case !ok:
		r.fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no such manifest")
	case req.Method == http.MethodDelete:
		w.WriteHeader(http.StatusAccepted)
	default:
		r.named(w, d.String())
		w.Header().Set("Content-Type", found.mediaType)
		if r.Bare {
			w.Header()["Content-Type"] = nil
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(found.raw)))
		if req.Method == http.MethodGet {
			_, _ = w.Write(found.raw)
		}
	}
}

func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, name, reference string) {
	raw, err := io.ReadAll(req.Body)
	if err == errReset {
		panic(http.ErrAbortHandler)
	}
	d := digest.FromBytes(raw)
	if want, bad := digest.Parse(reference); bad == nil {
		d = want.Algorithm().FromBytes(raw)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	subject, missing, ok := r.references(name, raw)
	switch {
	case err != nil || !ok:
		r.fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "no JSON object")
		return
	case strings.Contains(reference, ":") && reference != d.String():
		r.fail(w, http.StatusBadRequest, "DIGEST_INVALID", "content has another digest")
		return
	case missing != "":
		status, code := r.Missing, r.MissingCode
		if status == 0 {
			status = http.StatusNotFound
		}
		if code == "" {
			code = "MANIFEST_BLOB_UNKNOWN"
		}
		r.fail(w, status, code, "unknown: "+missing)
		return
	}
	repo := r.repo(name)
	repo.manifests[d] = manifest{req.Header.Get("Content-Type"), raw}
	tags := req.URL.Query()["tag"]
	if r.NoTagParam {
		tags = nil
	}
	for _, tag := range tags {
		repo.tags[tag] = d
		w.Header().Add("OCI-Tag", tag)
	}
	if !strings.Contains(reference, ":") {
		repo.tags[reference] = d
	}
	if subject != "" && !r.NoReferrers {
		w.Header().Set("OCI-Subject", subject)
	}
	w.Header().Set("Location", "/v2/"+name+"/manifests/"+d.String())
	r.named(w, d.String())
	w.WriteHeader(http.StatusCreated)
}

type descriptor struct {
	MediaType    string        `json:"mediaType"`
	Digest       digest.Digest `json:"digest"`
	Size         int64         `json:"size"`
	ArtifactType string        `json:"artifactType,omitempty"`
	URLs         []string      `json:"urls,omitempty"`
}

type document struct {
	ArtifactType             string
	Config, Subject          *descriptor
	Layers, Blobs, Manifests []descriptor
}

// references returns the subject of a manifest and the first thing it names
// that repository name lacks; it needs r.mu.
func (r *Registry) references(name string, raw []byte) (subject, missing string, ok bool) {
	var doc document
	if json.Unmarshal(raw, &doc) != nil {
		return "", "", false
	}
	if doc.Subject != nil {
		subject = doc.Subject.Digest.String()
	}
	blobs := append(doc.Layers, doc.Blobs...)
	if doc.Config != nil {
		blobs = append(blobs, *doc.Config)
	}
	for _, b := range blobs {
		if _, found := r.repo(name).blobs[b.Digest]; !found && len(b.URLs) == 0 {
			return subject, b.Digest.String(), true
		}
	}
	for _, child := range doc.Manifests {
		if _, found := r.repo(name).manifests[child.Digest]; !found {
			return subject, child.Digest.String(), true
		}
	}
	return subject, "", true
}

func (r *Registry) tagList(w http.ResponseWriter, req *http.Request, m []string) {
	r.mu.Lock()
	var tags []string
	for tag := range r.repo(m[0]).tags {
		if tag > req.URL.Query().Get("last") {
			tags = append(tags, tag)
		}
	}
	r.mu.Unlock()
	slices.Sort(tags)
	if n, err := strconv.Atoi(req.URL.Query().Get("n")); err == nil && n < len(tags) {
		tags = tags[:n]
		if n > 0 {
			w.Header().Set("Link", "</v2/"+m[0]+"/tags/list?last="+tags[n-1]+"&n="+strconv.Itoa(n)+`>; rel="next"`)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	// No tags are null here, as Nexus sends it.
	_ = json.NewEncoder(w).Encode(map[string]any{"name": m[0], "tags": tags})
}

func (r *Registry) referrers(w http.ResponseWriter, req *http.Request, m []string) {
	if r.NoReferrers {
		r.fail(w, http.StatusNotFound, "UNSUPPORTED", "no referrers")
		return
	}
	list, kind := []descriptor{}, req.URL.Query().Get("artifactType")
	r.mu.Lock()
	for d, found := range r.repo(m[0]).manifests {
		var doc document
		if json.Unmarshal(found.raw, &doc) != nil || doc.Subject == nil || doc.Subject.Digest.String() != m[1] {
			continue
		}
		if kind == "" || kind == doc.ArtifactType {
			list = append(list, descriptor{found.mediaType, d, int64(len(found.raw)), doc.ArtifactType, nil})
		}
	}
	r.mu.Unlock()
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list})
}
