package tests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeEmpty    = "application/vnd.oci.empty.v1+json"
)

// desc is an OCI descriptor, with the diff id of a layer beside it.
type desc struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *platform         `json:"platform,omitempty"`

	diffID string
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// manifest is an OCI manifest or index, as written and as read.
type manifest struct {
	SchemaVersion int    `json:"schemaVersion"`
	MediaType     string `json:"mediaType,omitempty"`
	ArtifactType  string `json:"artifactType,omitempty"`
	Config        *desc  `json:"config,omitempty"`
	Layers        []desc `json:"layers,omitempty"`
	Manifests     []desc `json:"manifests,omitempty"`
	Subject       *desc  `json:"subject,omitempty"`
}

// layout writes an OCI image layout.
type layout struct {
	t    *testing.T
	dir  string
	tags []desc
}

func newLayout(t *testing.T, dir string) *layout {
	t.Helper()
	mkdir(t, filepath.Join(dir, "blobs", "sha256"))
	writeFile(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`, 0o644)
	return &layout{t: t, dir: dir}
}

func (l *layout) blob(mediaType string, content []byte) desc {
	l.t.Helper()
	d := desc{MediaType: mediaType, Digest: digestOf(content), Size: int64(len(content))}
	writeFile(l.t, l.path(d.Digest), string(content), 0o644)
	return d
}

func (l *layout) path(digest string) string {
	return filepath.Join(l.dir, "blobs", "sha256", digest[len("sha256:"):])
}

func (l *layout) json(mediaType string, v any) desc {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, b)
}

// layer makes a layer holding one file of random bytes; size 0 makes a layer without any file.
func (l *layout) layer(seed byte, size int) desc {
	l.t.Helper()
	plain := layerTar(l.t, seed, size)
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.NoCompression) // random bytes: packing would only cost time
	if _, err := w.Write(plain); err != nil {
		l.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		l.t.Fatal(err)
	}
	d := l.blob(typeLayer, packed.Bytes())
	d.diffID = digestOf(plain)
	return d
}

// image makes a single-platform image.
func (l *layout) image(arch string, layers ...desc) desc {
	l.t.Helper()
	diffIDs := []string{}
	for _, layer := range layers {
		diffIDs = append(diffIDs, layer.diffID)
	}
	config := l.json(typeConfig, map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"Cmd": []string{"/file"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	d := l.json(typeManifest, manifest{SchemaVersion: 2, MediaType: typeManifest, Config: &config, Layers: layers})
	d.Platform = &platform{arch, "linux"}
	return d
}

// index makes a multi-platform image.
func (l *layout) index(images ...desc) desc {
	l.t.Helper()
	return l.json(typeIndex, manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: images})
}

// artifact makes an OCI artifact that refers to subject. One of its blobs has no bytes at all.
func (l *layout) artifact(subject desc) desc {
	l.t.Helper()
	config := l.blob(typeEmpty, []byte("{}"))
	return l.json(typeManifest, manifest{
		SchemaVersion: 2, MediaType: typeManifest, ArtifactType: "application/vnd.test.report", Config: &config,
		Layers:  []desc{l.blob("text/plain", []byte("all is well\n")), l.blob("application/octet-stream", nil)},
		Subject: &desc{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	})
}

// tag names a manifest in the layout's index.
func (l *layout) tag(name string, d desc) desc {
	l.t.Helper()
	named := d
	named.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	l.tags = append(l.tags, named)
	b, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: l.tags})
	if err != nil {
		l.t.Fatal(err)
	}
	writeFile(l.t, filepath.Join(l.dir, "index.json"), string(b), 0o644)
	return d
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func layerTar(t *testing.T, seed byte, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if size > 0 {
		content := randomBytes(seed, size)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("file-%d", seed), Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// randomBytes returns the same bytes for the same seed.
func randomBytes(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sample is one layout that tests share and do not change.
type sample struct {
	dir                     string
	single, multi, artifact desc
}

const bigLayer = 100 << 20

var (
	sampleOnce sync.Once
	sampleOf   sample
)

// samples holds the tags single (a layer without files, small ones and one of 100 MB), multi (two platforms that share a
// layer) and artifact (subject: single).
func samples(t *testing.T) sample {
	t.Helper()
	sampleOnce.Do(func() {
		l := newLayout(t, filepath.Join(suiteDir, "samples"))
		empty, shared := l.layer(0, 0), l.layer(1, 200_000)
		single := l.tag("single", l.image("amd64", empty, shared, l.layer(2, 1), l.layer(3, bigLayer)))
		multi := l.tag("multi", l.index(l.image("amd64", shared, l.layer(4, 300_000)), l.image("arm64", shared, l.layer(5, 300_000))))
		sampleOf = sample{l.dir, single, multi, l.tag("artifact", l.artifact(single))}
	})
	if _, err := os.Stat(filepath.Join(sampleOf.dir, "index.json")); err != nil {
		t.Fatal("the shared images could not be made: ", err)
	}
	return sampleOf
}
