package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// layerSizes are those of the benchmark's image: eight layers of 39 MiB together, and its config is a ninth blob.
func layerSizes() []int {
	return []int{1 << 20, 1 << 20, 1 << 20, 2 << 20, 2 << 20, 4 << 20, 8 << 20, 20 << 20}
}

// imageBytes is what the layers of the image hold together.
func imageBytes() (n int64) {
	for _, size := range layerSizes() {
		n += int64(size)
	}
	return n
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// image is an image of random bytes, as an OCI layout and as the archive that `docker load` takes.
type image struct {
	name    string // unique on this machine, with a tag
	layout  string // directory, with this image alone
	archive string // file
	layers  [][]byte
}

// newImage makes an image below dir whose layers hold one file of random bytes each.
func newImage(dir, name string, sizes []int) (*image, error) {
	img := &image{name: name}
	for i, size := range sizes {
		layer, err := newLayer(i, size)
		if err != nil {
			return nil, err
		}
		img.layers = append(img.layers, layer)
	}
	return img, img.write(dir)
}

// grow makes another image: the same layers and a new one on top.
func (img *image) grow(dir, name string, size int) (*image, error) {
	layer, err := newLayer(len(img.layers), size)
	if err != nil {
		return nil, err
	}
	grown := &image{name: name, layers: append(append([][]byte(nil), img.layers...), layer)}
	return grown, grown.write(dir)
}

func newLayer(number, size int) ([]byte, error) {
	content := make([]byte, size)
	_, _ = rand.Read(content) // never fails
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := addFile(w, fmt.Sprintf("file-%d", number), content)
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}

func addFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

func (img *image) write(dir string) error {
	base := filepath.Join(dir, strings.ReplaceAll(img.name, ":", "-"))
	img.layout, img.archive = base+".layout", base+".tar"
	blobs := filepath.Join(img.layout, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	var layers []descriptor
	var ids []string
	for _, plain := range img.layers {
		packed, err := pack(plain)
		if err != nil {
			return err
		}
		layer, err := writeBlob(blobs, layerType, packed)
		if err != nil {
			return err
		}
		layers, ids = append(layers, layer), append(ids, digestOf(plain))
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/file-0"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	if err != nil {
		return err
	}
	if err := img.writeLayout(blobs, config, layers); err != nil {
		return err
	}
	return img.writeArchive(config, ids)
}

// pack stores a layer as gzip without compressing it: random bytes would only cost time. docker packs it again anyway.
func pack(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (img *image) writeLayout(blobs string, config []byte, layers []descriptor) error {
	stored, err := writeBlob(blobs, configType, config)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": stored, "layers": layers})
	if err != nil {
		return err
	}
	named, err := writeBlob(blobs, manifestType, manifest)
	if err != nil {
		return err
	}
	named.Annotations = map[string]string{"io.containerd.image.name": img.reference()}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []descriptor{named}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(img.layout, "index.json"), index, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(img.layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// reference is the image's name in stores that want a host before it.
func (img *image) reference() string { return "bench.test/" + img.name }

func (img *image) writeArchive(config []byte, ids []string) (err error) {
	f, err := os.Create(img.archive)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	w := tar.NewWriter(f)
	var names []string
	for i, plain := range img.layers {
		names = append(names, strings.TrimPrefix(ids[i], "sha256:")+".tar")
		if err := addFile(w, names[i], plain); err != nil {
			return err
		}
	}
	configName := strings.TrimPrefix(digestOf(config), "sha256:") + ".json"
	if err := addFile(w, configName, config); err != nil {
		return err
	}
	list, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{img.reference()}, "Layers": names}})
	if err != nil {
		return err
	}
	if err := addFile(w, "manifest.json", list); err != nil {
		return err
	}
	return w.Close()
}

func writeBlob(dir, mediaType string, content []byte) (descriptor, error) {
	d := descriptor{MediaType: mediaType, Digest: digestOf(content), Size: int64(len(content))}
	return d, os.WriteFile(filepath.Join(dir, strings.TrimPrefix(d.Digest, "sha256:")), content, 0o644)
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
