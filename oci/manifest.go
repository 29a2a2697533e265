package oci

import (
	"encoding/json"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types that clients and registries exchange. A manifest of another
// application/… type is read by its structure alone.
const (
	MediaTypeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	MediaTypeOCIArtifact    = "application/vnd.oci.artifact.manifest.v1+json"
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"

	mediaTypeDockerSchema1 = "application/vnd.docker.distribution.manifest.v1"
)

// ManifestTypes is what to accept when any manifest will do.
var ManifestTypes = []string{
	MediaTypeOCIIndex, MediaTypeOCIManifest, MediaTypeDockerList, MediaTypeDockerManifest, MediaTypeOCIArtifact, "*/*",
}

const (
	maxDescriptors = 10_000
	maxDepth       = 64
)

// Descriptor is what a manifest says of a blob or of another manifest.
type Descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // bytes
	URLs      []string      `json:"urls,omitempty"`
}

// Foreign reports whether the blob may legitimately be absent from the
// registry: it names other places to fetch it from, or may not be distributed
// (image-spec, "Non-Distributable Layers").
func (d Descriptor) Foreign() bool {
	return len(d.URLs) > 0 || strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, ".nondistributable.")
}

// Manifest is a manifest or index as it was pushed. Raw is forwarded and stored
// untouched; the rest is read from it.
type Manifest struct {
	MediaType string       // as the client sent it, without parameters
	Raw       []byte       // at most MaxManifest bytes
	Blobs     []Descriptor // config, layers and artifact blobs, each digest once, in order
	Manifests []Descriptor // children of an index, each digest once, in order
	Subject   *Descriptor  // what it refers to, which need not exist
}

// Digest returns the manifest's digest under the algorithm.
func (m Manifest) Digest(a digest.Algorithm) digest.Digest { return a.FromBytes(m.Raw) }

// ParseManifest reads a manifest of any application/… media type: docker schema
// 2 and lists, OCI images, indexes and artifacts. The contentType may be empty;
// then the document's own mediaType counts. It refuses, as ErrManifestInvalid,
// what two readers could read differently (keys that occur twice or differ in
// case only, layers beside manifests, a mediaType that is not the contentType;
// GHSA-5j5w-g665-5m35), bad digests, negative sizes, more than 10,000
// references and nesting beyond 64; as ErrManifestTooLarge, more than
// MaxManifest bytes.
func ParseManifest(contentType string, raw []byte) (Manifest, error) {
	if len(raw) > MaxManifest {
		return Manifest{}, ErrManifestTooLarge
	}
	if err := unambiguous(raw); err != nil {
		return Manifest{}, ErrManifestInvalid.With("manifest: %v", err)
	}
	var doc struct {
		MediaType string       `json:"mediaType"`
		Config    *Descriptor  `json:"config"`
		Layers    []Descriptor `json:"layers"`
		Blobs     []Descriptor `json:"blobs"`
		Manifests []Descriptor `json:"manifests"`
		Subject   *Descriptor  `json:"subject"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return Manifest{}, ErrManifestInvalid.With("manifest: not the JSON of a manifest: %v", err)
	}
	if len(doc.Manifests) > 0 && (len(doc.Layers) > 0 || doc.Config != nil) {
		return Manifest{}, ErrManifestInvalid.With("manifest: it has both layers and manifests, so it is neither an image nor an index")
	}
	mediaType, err := manifestType(contentType, doc.MediaType, doc.Manifests != nil)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{MediaType: mediaType, Raw: raw, Subject: doc.Subject}
	var blobs []Descriptor
	if doc.Config != nil {
		blobs = append(blobs, *doc.Config)
	}
	blobs = append(append(blobs, doc.Layers...), doc.Blobs...)
	if len(blobs)+len(doc.Manifests) > maxDescriptors {
		return Manifest{}, ErrManifestInvalid.With("manifest: more than %d references", maxDescriptors)
	}
	if m.Blobs, err = unique(blobs); err != nil {
		return Manifest{}, err
	}
	if m.Manifests, err = unique(doc.Manifests); err != nil {
		return Manifest{}, err
	}
	if m.Subject != nil {
		if _, err := unique([]Descriptor{*m.Subject}); err != nil {
			return Manifest{}, err
		}
	}
	return m, nil
}

// manifestType settles the media type. Only application types pass: a manifest
// is served with the type it was pushed with, and must never be a page.
func manifestType(contentType, own string, index bool) (string, error) {
	got := own
	if contentType != "" {
		var err error
		if got, _, err = mime.ParseMediaType(contentType); err != nil {
			return "", ErrManifestInvalid.With("manifest: Content-Type %s is not a media type", quote(contentType))
		}
	}
	if got == "" {
		got = MediaTypeOCIManifest
		if index {
			got = MediaTypeOCIIndex
		}
	}
	switch {
	case !strings.HasPrefix(got, "application/") || got == "application/xhtml+xml":
		return "", ErrManifestInvalid.With("manifest: Content-Type %s is not an application type; use the manifest's own media type", quote(got))
	case strings.HasPrefix(got, mediaTypeDockerSchema1):
		return "", ErrManifestInvalid.With("manifest: docker schema 1 is no longer taken by registries; push with a client that writes schema 2 or OCI")
	case own != "" && !strings.EqualFold(own, got):
		return "", ErrManifestInvalid.With("manifest: Content-Type is %s but the document's mediaType is %s", quote(got), quote(own))
	}
	return got, nil
}

// unique checks descriptors and drops those whose digest came before.
func unique(in []Descriptor) (out []Descriptor, err error) {
	seen := make(map[digest.Digest]bool, len(in))
	for _, d := range in {
		if _, err := ParseDigest(d.Digest.String()); err != nil {
			return nil, ErrManifestInvalid.With("manifest: it references %s, which is not a digest", quote(d.Digest.String()))
		}
		if d.Size < 0 {
			return nil, ErrManifestInvalid.With("manifest: it gives %s the size %d", d.Digest, d.Size)
		}
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out, nil
}
