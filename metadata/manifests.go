package metadata

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Manifest is a manifest as it was pushed to one repository.
type Manifest struct {
	MediaType string    `json:"media_type"` // from the Content-Type of the push
	When      time.Time `json:"when"`       // UTC; set by PutManifest
	Raw       []byte    `json:"-"`          // the very bytes, oci.MaxManifest at most
}

// PutManifest keeps m for repo under d, replacing what was there. Bytes that
// do not have the digest d are oci.ErrDigestInvalid, more than oci.MaxManifest
// of them oci.ErrManifestTooLarge.
func (db *DB) PutManifest(ctx context.Context, repo oci.Repo, d digest.Digest, m Manifest) error {
	if len(m.Raw) > oci.MaxManifest {
		return oci.ErrManifestTooLarge
	}
	if !matches(d, m.Raw) {
		return oci.ErrDigestInvalid.With("the manifest's bytes do not have the digest %q", d)
	}
	m.When = db.now()
	if err := db.put(ctx, manifestKey(repo, d), m, m.Raw); err != nil {
		return fmt.Errorf("keep manifest %s of %s: %w", d, repo, err)
	}
	return nil
}

// Manifest returns the manifest d as it was pushed to repo, if it was. Its
// bytes have the digest d.
func (db *DB) Manifest(ctx context.Context, repo oci.Repo, d digest.Digest) (Manifest, bool, error) {
	var m Manifest
	raw, ok, err := db.fact(ctx, manifestKey(repo, d), &m)
	if err != nil {
		return Manifest{}, false, fmt.Errorf("manifest %s of %s: %w", d, repo, err)
	}
	if !ok || !matches(d, raw) {
		return Manifest{}, false, nil
	}
	m.Raw = raw
	return m, true, nil
}

// DeleteManifest removes the manifest d from repo together with the tags of
// repo that name it and the presence of d: were they left, a later push of d
// would bring them back (trust S27). Other repositories keep theirs.
func (db *DB) DeleteManifest(ctx context.Context, repo oci.Repo, d digest.Digest) error {
	tags, err := db.Tags(ctx, repo)
	if err != nil {
		return err
	}
	for _, t := range tags {
		if t.Digest != d {
			continue
		}
		if err := db.deleteTagAt(ctx, repo, t.Name, d); err != nil {
			return err
		}
	}
	if err := db.ForgetPresence(ctx, repo, d); err != nil {
		return err
	}
	if err := db.remove(ctx, manifestKey(repo, d)); err != nil {
		return fmt.Errorf("delete manifest %s of %s: %w", d, repo, err)
	}
	return nil
}

// Tag is a name for a manifest in one repository.
type Tag struct {
	Name      string        `json:"-"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"media_type"`
	Size      int64         `json:"size"` // of the manifest, in bytes
	When      time.Time     `json:"when"` // UTC; set by SetTag
}

// SetTag makes name in repo stand for t. t.Name and t.When are ignored.
func (db *DB) SetTag(ctx context.Context, repo oci.Repo, name string, t Tag) error {
	t.When = db.now()
	if err := db.put(ctx, tagKey(repo, name), t, nil); err != nil {
		return fmt.Errorf("set tag %s:%s: %w", repo, name, err)
	}
	return nil
}

// Tag returns what name stands for in repo, if it was set.
func (db *DB) Tag(ctx context.Context, repo oci.Repo, name string) (Tag, bool, error) {
	var t Tag
	_, ok, err := db.fact(ctx, tagKey(repo, name), &t)
	if err != nil {
		return Tag{}, false, fmt.Errorf("tag %s:%s: %w", repo, name, err)
	}
	if !ok {
		return Tag{}, false, nil
	}
	t.Name = name
	return t, true, nil
}

// DeleteTag removes name from repo; that it is not there is fine.
func (db *DB) DeleteTag(ctx context.Context, repo oci.Repo, name string) error {
	if err := db.remove(ctx, tagKey(repo, name)); err != nil {
		return fmt.Errorf("delete tag %s:%s: %w", repo, name, err)
	}
	return nil
}

// Tags returns all tags set in repo, in the order of their names' bytes.
func (db *DB) Tags(ctx context.Context, repo oci.Repo) ([]Tag, error) {
	var tags []Tag
	for entry, err := range db.KV.Scan(ctx, makeKey("tag", repo.Host, repo.Name)) {
		if err != nil {
			return nil, fmt.Errorf("tags of %s: %w", repo, err)
		}
		var t Tag
		if _, err := decode(entry.Key, entry.Value, &t); err != nil {
			continue
		}
		if t.Name, err = lastField(entry.Key); err == nil {
			tags = append(tags, t)
		}
	}
	slices.SortFunc(tags, func(a, b Tag) int { return cmp.Compare(a.Name, b.Name) })
	return tags, nil
}

// deleteTagAt removes name from repo unless it no longer stands for d.
func (db *DB) deleteTagAt(ctx context.Context, repo oci.Repo, name string, d digest.Digest) error {
	key := tagKey(repo, name)
	err := db.update(ctx, key, func(record []byte) ([]byte, error) {
		var t Tag
		if _, err := decode(key, record, &t); err == nil && t.Digest != d {
			return record, nil
		}
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("delete tag %s:%s: %w", repo, name, err)
	}
	return nil
}

// matches reports whether raw has the digest d.
func matches(d digest.Digest, raw []byte) bool {
	return d.Validate() == nil && d.Algorithm().FromBytes(raw) == d
}

func manifestKey(repo oci.Repo, d digest.Digest) string {
	return makeKey("manifest", repo.Host, repo.Name, d.String())
}

func tagKey(repo oci.Repo, name string) string { return makeKey("tag", repo.Host, repo.Name, name) }
