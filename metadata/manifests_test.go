package metadata_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// digestOf returns the digest of a manifest's bytes.
func digestOf(raw []byte) digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, sum(raw))
}

func sum(raw []byte) []byte {
	s := sha256.Sum256(raw)
	return s[:]
}

func TestManifestsComeBackByteForByte(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
		db, ctx := &metadata.DB{KV: kv, Now: func() time.Time { return at }}, t.Context()
		mediaType := "application/vnd.oci.image.manifest.v1+json" + strings.Repeat("x", 200)
		for _, size := range []int{0, 1, 900, 1 << 20, oci.MaxManifest} {
			raw := bytes.Repeat([]byte{'\n'}, size)
			for _, d := range []digest.Digest{digestOf(raw), digest.SHA512.FromBytes(raw)} {
				must(t, db.PutManifest(ctx, app("a"), d, metadata.Manifest{MediaType: mediaType, Raw: raw}))
				m, ok, err := db.Manifest(ctx, app("a"), d)
				if err != nil || !ok || !bytes.Equal(m.Raw, raw) || m.MediaType != mediaType || !m.When.Equal(at) {
					t.Errorf("manifest of %d bytes: got %d bytes as %.20q of %v, %v, %v", size, len(m.Raw), m.MediaType, m.When, ok, err)
				}
				if _, ok, err := db.Manifest(ctx, app("b"), d); ok || err != nil {
					t.Errorf("manifest of another repository: got %v, %v", ok, err)
				}
			}
		}
	})
}

func TestManifestsThatAreRefused(t *testing.T) {
	t.Parallel()
	db := &metadata.DB{KV: &metadata.Memory{}}
	large := make([]byte, oci.MaxManifest+1)
	cases := []struct {
		name string
		d    digest.Digest
		raw  []byte
		want error
	}{
		{"bytes of another digest", digestOf([]byte("x")), []byte("y"), oci.ErrDigestInvalid},
		{"something that is no digest", "sha256:00", []byte("y"), oci.ErrDigestInvalid},
		{"an unknown algorithm", "md5:00000000000000000000000000000000", nil, oci.ErrDigestInvalid},
		{"more than 4 MiB", digestOf(large), large, oci.ErrManifestTooLarge},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := db.PutManifest(t.Context(), app("a"), c.d, metadata.Manifest{Raw: c.raw})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, ok, err := db.Manifest(t.Context(), app("a"), c.d); ok || err != nil {
				t.Errorf("it is stored: %v, %v", ok, err)
			}
		})
	}
}

// TestS27ADeletedManifestStaysDeleted is trust S27: membership of a repository
// goes with the deletion, and the same bytes elsewhere or later bring nothing
// back that was not pushed again.
func TestS27ADeletedManifestStaysDeleted(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		raw, other := []byte(`{"a":1}`), []byte(`{"b":1}`)
		d, o := digestOf(raw), digestOf(other)
		push := func(repo oci.Repo, d digest.Digest, raw []byte, tag string) {
			must(t, db.PutManifest(ctx, repo, d, metadata.Manifest{Raw: raw}))
			must(t, db.SetPresence(ctx, repo, d, metadata.Uploaded, 7))
			must(t, db.SetTag(ctx, repo, tag, metadata.Tag{Digest: d}))
		}
		state := func(repo oci.Repo) string {
			t.Helper()
			_, manifest, err1 := db.Manifest(ctx, repo, d)
			_, present, err2 := db.Presence(ctx, repo, d)
			tags, err3 := db.Tags(ctx, repo)
			must(t, errors.Join(err1, err2, err3))
			var names []string
			for _, tag := range tags {
				names = append(names, tag.Name)
			}
			return fmt.Sprint(manifest, present, names)
		}
		push(app("a"), d, raw, "one")
		push(app("a"), d, raw, "two")
		push(app("a"), o, other, "keep")
		push(app("b"), d, raw, "one")
		must(t, db.DeleteManifest(ctx, app("a"), d))
		if got := state(app("a")); got != "false false [keep]" {
			t.Errorf("after the deletion a has %s", got)
		}
		if got := state(app("b")); got != "true true [one]" {
			t.Errorf("after the deletion in a, b has %s", got)
		}
		push(app("c"), d, raw, "one")
		if got := state(app("a")); got != "false false [keep]" {
			t.Errorf("after a push to c, a has %s", got)
		}
		must(t, db.PutManifest(ctx, app("a"), d, metadata.Manifest{Raw: raw}))
		if got := state(app("a")); got != "true false [keep]" {
			t.Errorf("after a push by digest, a has %s", got)
		}
		must(t, db.DeleteManifest(ctx, app("a"), numbered(1)))
	})
}

func TestS27TagsAgreeWithAModelOverRandomHistories(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, kv metadata.KV) {
		const seed = 5
		random := rand.New(rand.NewPCG(seed, seed))
		at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
		db, ctx := &metadata.DB{KV: kv, Now: func() time.Time { return at }}, t.Context()
		repos := []oci.Repo{app("a"), app("a/b"), {Host: "quay.io", Name: "a"}}
		names := []string{"latest", "LATEST", "v1.0", "v1.0-rc_1", "_", "b"}
		model := map[oci.Repo]map[string]metadata.Tag{}
		for _, repo := range repos {
			model[repo] = map[string]metadata.Tag{}
		}
		for range 300 {
			at = at.Add(time.Second)
			repo, name := repos[random.IntN(len(repos))], names[random.IntN(len(names))]
			d := numbered(random.IntN(4))
			switch random.IntN(8) {
			case 0:
				must(t, db.DeleteTag(ctx, repo, name))
				delete(model[repo], name)
			case 1:
				must(t, db.DeleteManifest(ctx, repo, d))
				for name, tag := range model[repo] {
					if tag.Digest == d {
						delete(model[repo], name)
					}
				}
			default:
				must(t, db.SetTag(ctx, repo, name, metadata.Tag{Digest: d, MediaType: "m", Size: 3}))
				model[repo][name] = metadata.Tag{Name: name, Digest: d, MediaType: "m", Size: 3, When: at}
			}
			for _, repo := range repos {
				checkTags(t, db, repo, model[repo], name)
			}
		}
	})
}

// checkTags compares all tags of repo, and name by itself, with a model.
func checkTags(t *testing.T, db *metadata.DB, repo oci.Repo, model map[string]metadata.Tag, name string) {
	t.Helper()
	var want []metadata.Tag
	for _, tag := range model {
		want = append(want, tag)
	}
	slices.SortFunc(want, func(a, b metadata.Tag) int { return strings.Compare(a.Name, b.Name) })
	if got, err := db.Tags(t.Context(), repo); err != nil || !slices.Equal(got, want) {
		t.Fatalf("tags of %v: got %v, %v, want %v", repo, got, err, want)
	}
	known, want1 := model[name]
	if got, ok, err := db.Tag(t.Context(), repo, name); err != nil || ok != want1 || got != known {
		t.Fatalf("tag %v:%s: got %v, %v, %v, want %v", repo, name, got, ok, err, known)
	}
}
