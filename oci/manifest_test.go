package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func desc(text string) string {
	return fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromString(text), len(text))
}

func TestParseManifestListsReferencesOfEveryForm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		says, contentType, doc string
		blobs, children        []string
		mediaType              string
	}{
		{"docker schema 2", MediaTypeDockerManifest, `{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifest + `","config":` + desc("c") + `,"layers":[` + desc("1") + `,` + desc("2") + `]}`, []string{"c", "1", "2"}, nil, MediaTypeDockerManifest},
		{"a layer twice", MediaTypeOCIManifest, `{"config":` + desc("c") + `,"layers":[` + desc("1") + `,` + desc("1") + `]}`, []string{"c", "1"}, nil, MediaTypeOCIManifest},
		{"an index", MediaTypeOCIIndex + "; charset=utf-8", `{"schemaVersion":2,"manifests":[` + desc("m") + `]}`, nil, []string{"m"}, MediaTypeOCIIndex},
		{"an empty index", MediaTypeOCIIndex, `{"schemaVersion":2,"manifests":[]}`, nil, nil, MediaTypeOCIIndex},
		{"an artifact", MediaTypeOCIArtifact, `{"blobs":[` + desc("b") + `],"subject":` + desc("s") + `}`, []string{"b"}, nil, MediaTypeOCIArtifact},
		{"an unknown application type", "application/vnd.acme.v9+json", `{"layers":[` + desc("1") + `]}`, []string{"1"}, nil, "application/vnd.acme.v9+json"},
		{"no type at all", "", `{"manifests":[` + desc("m") + `]}`, nil, []string{"m"}, MediaTypeOCIIndex},
		{"the document's own type", "", `{"mediaType":"` + MediaTypeDockerManifest + `","layers":[]}`, nil, nil, MediaTypeDockerManifest},
		{"annotations that differ in case", MediaTypeOCIManifest, `{"layers":[],"annotations":{"Digest":"x","digest":"y"}}`, nil, nil, MediaTypeOCIManifest},
	} {
		m, err := ParseManifest(c.contentType, []byte(c.doc))
		if err != nil {
			t.Errorf("%s: %v", c.says, err)
			continue
		}
		if m.MediaType != c.mediaType || string(m.Raw) != c.doc {
			t.Errorf("%s: type %q, bytes kept %v", c.says, m.MediaType, string(m.Raw) == c.doc)
		}
		if got := digests(m.Blobs); !slices.Equal(got, of(c.blobs)) {
			t.Errorf("%s: blobs %v, want %v", c.says, got, c.blobs)
		}
		if got := digests(m.Manifests); !slices.Equal(got, of(c.children)) {
			t.Errorf("%s: manifests %v, want %v", c.says, got, c.children)
		}
	}
}

func digests(in []Descriptor) (out []digest.Digest) {
	for _, d := range in {
		out = append(out, d.Digest)
	}
	return out
}

func of(texts []string) (out []digest.Digest) {
	for _, text := range texts {
		out = append(out, digest.FromString(text))
	}
	return out
}

func TestS25ParseManifestRefusesWhatTwoReadersCouldReadDifferently(t *testing.T) {
	t.Parallel()
	for says, doc := range map[string]string{
		"layers beside manifests":      `{"layers":[` + desc("1") + `],"manifests":[` + desc("m") + `]}`,
		"config beside manifests":      `{"config":` + desc("1") + `,"manifests":[` + desc("m") + `]}`,
		"a key twice":                  `{"layers":[],"layers":[` + desc("1") + `]}`,
		"keys that differ in case":     `{"layers":[],"Layers":[` + desc("1") + `]}`,
		"a structural key in capitals": `{"LAYERS":[` + desc("1") + `]}`,
		"a letter that folds to an s":  `{"layerſ":[` + desc("1") + `]}`,
		"a digest by a folded sign":    `{"layers":[{"Digeſt":"` + d256 + `","size":1}]}`,
		"a digest twice in a layer":    `{"layers":[{"digest":"` + d256 + `","size":1,"digest":"` + d256 + `"}]}`,
		"another mediaType":            `{"mediaType":"` + MediaTypeOCIIndex + `","layers":[]}`,
		"a second document":            `{"layers":[]}{}`,
		"an array":                     `[]`,
		"a string":                     `"x"`,
		"nothing":                      ``,
		"half a document":              `{"layers":[`,
		"a digest that is none":        `{"layers":[{"digest":"sha256:x","size":1}]}`,
		"a negative size":              `{"layers":[{"digest":"` + d256 + `","size":-1}]}`,
		"a size that is text":          `{"layers":[{"digest":"` + d256 + `","size":"1"}]}`,
		"a subject that is none":       `{"layers":[],"subject":{"digest":"x"}}`,
		"deep nesting":                 `{"x":` + strings.Repeat("[", 100_000),
	} {
		if _, err := ParseManifest(MediaTypeOCIManifest, []byte(doc)); !errors.Is(err, ErrManifestInvalid) {
			t.Errorf("%s: got %v, want %v", says, err, ErrManifestInvalid)
		}
	}
	for _, contentType := range []string{"text/html", "application/xhtml+xml", "image/svg+xml", ";;", "application/vnd.docker.distribution.manifest.v1+prettyjws"} {
		if _, err := ParseManifest(contentType, []byte(`{}`)); !errors.Is(err, ErrManifestInvalid) {
			t.Errorf("Content-Type %q: got %v, want %v", contentType, err, ErrManifestInvalid)
		}
	}
	if _, err := ParseManifest("", make([]byte, MaxManifest+1)); !errors.Is(err, ErrManifestTooLarge) {
		t.Errorf("4 MiB and a byte: got %v", err)
	}
	many := `{"layers":[` + strings.Repeat(desc("1")+",", maxDescriptors) + desc("1") + `]}`
	if _, err := ParseManifest("", []byte(many)); !errors.Is(err, ErrManifestInvalid) {
		t.Errorf("10,001 layers: got %v", err)
	}
}

func TestForeignLayersMayBeAbsent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    Descriptor
		want bool
	}{
		{Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip"}, false},
		{Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, true},
		{Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar"}, true},
		{Descriptor{URLs: []string{"https://elsewhere.test/x"}}, true},
	} {
		if got := c.d.Foreign(); got != c.want {
			t.Errorf("%+v: foreign %v, want %v", c.d, got, c.want)
		}
	}
}

func TestWriteAnswersInTheSpecificationsFormat(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	e := *ErrTooManyRequests.With("slow down")
	e.After, e.Cause = 1500*time.Millisecond, errors.New("inner secret")
	Write(w, fmt.Errorf("wrapped: %w", &e))
	if w.Code != 429 || w.Header().Get("Retry-After") != "2" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	if got, want := w.Body.String(), `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w = httptest.NewRecorder()
	Write(w, errors.New("open /secret/path: denied"))
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("an inner error reached the client: %d %s", w.Code, w.Body)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(MediaTypeOCIManifest, []byte(`{"config":`+desc("c")+`,"layers":[`+desc("1")+`]}`))
	f.Add("", []byte(`{"manifests":[],"annotations":{"a":"b"}}`))
	f.Add("text/html", []byte(`{`))
	f.Fuzz(func(t *testing.T, contentType string, raw []byte) {
		m, err := ParseManifest(contentType, raw)
		if err != nil {
			return
		}
		if !json.Valid(raw) || !strings.HasPrefix(m.MediaType, "application/") {
			t.Fatalf("%q %q passed as %q", contentType, raw, m.MediaType)
		}
		for _, d := range append(m.Blobs, m.Manifests...) {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Fatalf("%q: descriptor %+v passed", raw, d)
			}
		}
	})
}
