package forward

import (
	"context"
	"errors"
	"time"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

const (
	// smallBlob is the size, in bytes, up to which an upload costs no more than
	// the look that might spare it: both are round trips, not bytes.
	smallBlob = 64 << 10
	// presenceFor is how long an upstream may be trusted to keep a blob that no
	// manifest names yet: Quay drops such blobs after an hour.
	presenceFor = 50 * time.Minute
	// namedFor is how long a blob that a manifest names is taken to be there. An
	// upstream that collected it says so when the manifest arrives, and is healed.
	namedFor = 30 * 24 * time.Hour
	// refusedFor is how long a declined mount is not asked for again.
	refusedFor = 10 * time.Minute
)

// refusal is a mount that the upstream declined to this credential.
type refusal struct {
	owner    metadata.Owner
	from, to oci.Repo
}

// blob is one blob's way to one repository.
type blob struct {
	oci.Descriptor
	f       *Forwarder
	t       *Target
	repo    oci.Repo
	owner   metadata.Owner
	present bool // known to be there
	cached  bool // this principal's, and in the cache
	sources []oci.Repo
	session *upstream.Upload // opened by a declined mount, still unused
	from    string           // where it was mounted from
}

// budget is docker's getMaxMountAndExistenceCheckAttempts: how many mounts a
// blob of the size, in bytes, is worth.
func budget(size int64) int {
	switch {
	case size > 10<<20:
		return 4
	case size > 100<<10:
		return 3
	default:
		return 1
	}
}

// fresh reports whether a presence may be relied on.
func fresh(p metadata.Presence, now time.Time) bool {
	age := now.Sub(p.When)
	return p.How != metadata.Deleted && age >= 0 && (age < presenceFor || (p.How == metadata.Named && age < namedFor))
}

// plan gathers what is known of a blob: nothing here asks the upstream.
func (f *Forwarder) plan(ctx context.Context, t *Target, repo oci.Repo, d oci.Descriptor, from string) (*blob, error) {
	b := &blob{Descriptor: d, f: f, t: t, repo: repo}
	p, known, err := f.meta.Presence(ctx, repo, d.Digest)
	if err != nil {
		return nil, err
	}
	b.present = known && fresh(p, time.Now())
	if b.owner, err = t.Owner(ctx, repo); err != nil {
		return nil, err
	}
	granted, err := f.meta.Granted(ctx, t.Principal, d.Digest)
	if err != nil {
		return nil, err
	}
	if granted {
		size, err := f.cache.Stat(ctx, d.Digest)
		switch {
		case err == nil:
			b.cached, b.Size = true, size
		case !errors.Is(err, blobcache.ErrUnknown):
			return nil, err
		}
	}
	sources, err := f.meta.Sources(ctx, b.owner, d.Digest, repo.Host)
	if err != nil {
		return nil, err
	}
	b.sources = f.candidates(b, sources, from)
	return b, nil
}

// candidates orders the sources as docker does, the client's own hint first, and
// leaves out those that the upstream declined lately.
func (f *Forwarder) candidates(b *blob, known []oci.Repo, from string) []oci.Repo {
	ranked := metadata.Rank(known, b.repo, len(known))
	if hint := (oci.Repo{Host: b.repo.Host, Name: from}); from != "" && hint != b.repo {
		ranked = append([]oci.Repo{hint}, ranked...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []oci.Repo
	seen := map[oci.Repo]bool{}
	for _, source := range ranked {
		until, declined := f.refused[refusal{b.owner, source, b.repo}]
		if seen[source] || declined && time.Now().Before(until) {
			continue
		}
		seen[source] = true
		if out = append(out, source); len(out) == budget(b.Size) {
			break
		}
	}
	return out
}

func (f *Forwarder) declined(b *blob, source oci.Repo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for k, until := range f.refused {
		if now.After(until) {
			delete(f.refused, k)
		}
	}
	f.refused[refusal{b.owner, source, b.repo}] = now.Add(refusedFor)
}

func (b *blob) outcome(how How) Outcome {
	return Outcome{Digest: b.Digest, Size: b.Size, How: how, From: b.from}
}

// learned records that the upstream holds the blob, as evidence says.
func (b *blob) learned(ctx context.Context, how metadata.Evidence) error {
	return errors.Join(
		b.f.meta.SetPresence(ctx, b.repo, b.Digest, how, b.Size),
		b.f.meta.AddSource(ctx, b.owner, b.Digest, b.repo))
}
