package oci

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Kind is what a request of the distribution API asks for.
type Kind int

// The kinds, each with its end-point number in the specification's table
// ("Endpoints"). Uploads can be asked for and cancelled since the 1.2 draft.
const (
	KindPing           Kind = iota + 1 // end-1: GET /v2/
	KindBlobGet                        // end-2: GET blobs/<digest>
	KindBlobHead                       // end-2: HEAD blobs/<digest>
	KindManifestGet                    // end-3: GET manifests/<reference>
	KindManifestHead                   // end-3: HEAD manifests/<reference>
	KindUploadStart                    // end-4a: POST blobs/uploads/
	KindUploadWhole                    // end-4b: POST blobs/uploads/?digest=
	KindUploadChunk                    // end-5: PATCH blobs/uploads/<reference>
	KindUploadFinish                   // end-6: PUT blobs/uploads/<reference>?digest=
	KindManifestPut                    // end-7: PUT manifests/<reference>
	KindTags                           // end-8: GET tags/list
	KindManifestDelete                 // end-9: DELETE manifests/<reference>
	KindBlobDelete                     // end-10: DELETE blobs/<digest>
	KindMount                          // end-11: POST blobs/uploads/?mount=
	KindReferrers                      // end-12: GET referrers/<digest>
	KindUploadStatus                   // end-13: GET blobs/uploads/<reference>
	KindUploadCancel                   // end-14: DELETE blobs/uploads/<reference>
)

// Request is a request of the distribution API, taken apart. Only the fields
// that its kind has are set.
type Request struct {
	Kind      Kind
	Name      string           // repository as the client wrote it
	Digest    digest.Digest    // of the blob, manifest, subject or mount
	Tag       string           // of a manifest named by tag
	Tags      []string         // tags beside a manifest named by digest (?tag=, 1.2 draft)
	From      string           // repository that the client thinks has the blob
	Upload    string           // session of an upload
	Algorithm digest.Algorithm // of an upload, where the client said so (1.2 draft)
	Namespace string           // registry that the client means (?ns=, "Registry Proxying")
}

// Reference returns the tag or digest that a manifest request names.
func (r Request) Reference() string {
	if r.Tag != "" {
		return r.Tag
	}
	return r.Digest.String()
}

// Writes reports whether the request changes the repository or the cache.
func (r Request) Writes() bool {
	switch r.Kind {
	case KindPing, KindBlobGet, KindBlobHead, KindManifestGet, KindManifestHead, KindTags, KindReferrers:
		return false
	}
	return true
}

// The shapes of a path behind /v2/, by what stands at its end.
type shape int

const (
	shapeBlob shape = iota
	shapeUploads
	shapeUpload
	shapeManifest
	shapeTags
	shapeReferrers
)

// kinds is the one table of end-points: which method on which shape is which
// kind. POST is told apart by its query below.
var kinds = map[shape]map[string]Kind{
	shapeBlob:      {http.MethodGet: KindBlobGet, http.MethodHead: KindBlobHead, http.MethodDelete: KindBlobDelete},
	shapeUploads:   {http.MethodPost: KindUploadStart},
	shapeUpload:    {http.MethodPatch: KindUploadChunk, http.MethodPut: KindUploadFinish, http.MethodGet: KindUploadStatus, http.MethodDelete: KindUploadCancel},
	shapeManifest:  {http.MethodGet: KindManifestGet, http.MethodHead: KindManifestHead, http.MethodPut: KindManifestPut, http.MethodDelete: KindManifestDelete},
	shapeTags:      {http.MethodGet: KindTags},
	shapeReferrers: {http.MethodGet: KindReferrers},
}

var uploadExp = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// maxTags is the most ?tag= values taken from one request; the 1.2 draft asks
// for at least ten.
const maxTags = 32

// Parse takes a request of the distribution API apart. Its errors are the
// specification's: ErrNotFound for a path that is none of the end-points,
// ErrUnsupported for a method that the end-point lacks, ErrNameInvalid,
// ErrTagInvalid, ErrDigestInvalid and ErrBlobUploadUnknown for what they say.
func Parse(method string, u *url.URL) (Request, error) {
	path, ok := strings.CutPrefix(u.EscapedPath(), "/v2")
	if !ok || (path != "" && path[0] != '/') {
		return Request{}, ErrNotFound.With("%s is not part of the registry API; everything here is below /v2/", quote(u.Path))
	}
	path = strings.NewReplacer("%3A", ":", "%3a", ":").Replace(strings.TrimPrefix(path, "/"))
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Request{}, ErrNameInvalid.With("the query of the request cannot be read; send plain key=value pairs")
	}
	r := Request{Namespace: query.Get("ns")}
	if path == "" {
		r.Kind = KindPing
		if method != http.MethodGet && method != http.MethodHead {
			return Request{}, ErrUnsupported.With("%s is not a method of /v2/", quote(method))
		}
		return r, nil
	}
	s, last, err := r.parsePath(path)
	if err != nil {
		return Request{}, err
	}
	if r.Kind, ok = kinds[s][method]; !ok {
		return Request{}, ErrUnsupported.With("%s is not a method of this end-point", quote(method))
	}
	if err := r.parseLast(s, last); err != nil {
		return Request{}, err
	}
	return r, r.parseQuery(query)
}

// parsePath finds the path's shape from its end, sets the name and returns the
// component that names a digest, tag or upload.
func (r *Request) parsePath(path string) (s shape, last string, err error) {
	part := strings.Split(path, "/")
	n := len(part)
	at := func(i int) string {
		if i < 0 || i >= n {
			return ""
		}
		return part[i]
	}
	name := 0
	switch {
	case at(n-3) == "blobs" && at(n-2) == "uploads" && at(n-1) == "":
		s, name = shapeUploads, n-3
	case at(n-3) == "blobs" && at(n-2) == "uploads":
		s, name, last = shapeUpload, n-3, at(n-1)
	case at(n-2) == "blobs" && at(n-1) == "uploads":
		s, name = shapeUploads, n-2
	case at(n-2) == "blobs":
		s, name, last = shapeBlob, n-2, at(n-1)
	case at(n-2) == "manifests":
		s, name, last = shapeManifest, n-2, at(n-1)
	case at(n-2) == "tags" && at(n-1) == "list":
		s, name = shapeTags, n-2
	case at(n-2) == "referrers":
		s, name, last = shapeReferrers, n-2, at(n-1)
	default:
		return 0, "", ErrNotFound.With("%s is not an end-point of the registry API", quote("/v2/"+path))
	}
	r.Name = strings.Join(part[:name], "/")
	if strings.Contains(part[0], ":") {
		return 0, "", ErrNameInvalid.With("repository %s: a name cannot hold host:port; give that upstream an alias in the configuration and use the alias", quote(r.Name))
	}
	if !ValidName(r.Name) {
		return 0, "", ErrNameInvalid.With("repository %s is not a valid name: lower-case letters, digits and single separators, at most %d bytes", quote(r.Name), MaxName)
	}
	return s, last, nil
}

func (r *Request) parseLast(s shape, last string) (err error) {
	switch s {
	case shapeBlob, shapeReferrers:
		r.Digest, err = ParseDigest(last)
	case shapeUpload:
		if !uploadExp.MatchString(last) {
			return ErrBlobUploadUnknown
		}
		r.Upload = last
	case shapeManifest:
		if strings.Contains(last, ":") {
			r.Digest, err = ParseDigest(last)
		} else if r.Tag = last; !ValidTag(last) {
			return ErrTagInvalid.With("tag %s is not valid: at most %d letters, digits, dots, dashes and underscores, not beginning with a dot or dash", quote(last), MaxTag)
		}
	}
	return err
}

func (r *Request) parseQuery(query url.Values) (err error) {
	switch r.Kind {
	case KindUploadStart:
		return r.parseStart(query)
	case KindUploadFinish:
		r.Digest, err = onlyDigest(query, "digest")
		return err
	case KindManifestPut:
		r.Tags = query["tag"]
		if len(r.Tags) > maxTags {
			e := *ErrTagInvalid.With("%d tags in one request; at most %d are taken", len(r.Tags), maxTags)
			e.Status = http.StatusRequestURITooLong
			return &e
		}
		for _, tag := range r.Tags {
			if !ValidTag(tag) {
				return ErrTagInvalid.With("tag %s is not valid", quote(tag))
			}
		}
	}
	return nil
}

// parseStart tells the three uses of POST apart. A `from` without a `mount` is
// a plain start, and a plain start may name the session's algorithm.
func (r *Request) parseStart(query url.Values) (err error) {
	if algorithm := query.Get("digest-algorithm"); algorithm != "" {
		r.Algorithm = digest.Algorithm(algorithm)
		if r.Algorithm != digest.SHA256 && r.Algorithm != digest.SHA512 {
			return ErrDigestInvalid.With("digest algorithm %s is not known; sha256 and sha512 are", quote(algorithm))
		}
	}
	switch {
	case query.Has("digest"):
		r.Kind = KindUploadWhole
		r.Digest, err = onlyDigest(query, "digest")
	case query.Get("mount") != "":
		r.Kind = KindMount
		// A name that is none is no source; the mount may still succeed without.
		if from := query.Get("from"); ValidName(from) {
			r.From = from
		}
		r.Digest, err = onlyDigest(query, "mount")
	}
	return err
}

func onlyDigest(query url.Values, key string) (digest.Digest, error) {
	if values := query[key]; len(values) != 1 {
		return "", ErrDigestInvalid.With("the request needs exactly one %q in its query and has %d", key, len(values))
	}
	return ParseDigest(query.Get(key))
}
