package forward

import (
	"context"
	"errors"
	"slices"
	"time"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

// smallBlob is the size, in bytes, up to which an upload costs no more than the
// look that might spare it: both are round trips, not bytes.
const smallBlob = 64 << 10

// blob is one blob's way to one repository.
type blob struct {
	errand
	f       *Forwarder
	present bool // known to be there, to this owner
	ours    bool // this principal's, and in the cache or arriving there
	sources []oci.Repo
	session *upstream.Upload // opened by a declined mount, still unused
	from    string           // where it was mounted from
	rounds  int              // how often its bytes were begun to be sent
}

// budget is docker's getMaxMountAndExistenceCheckAttempts: how many mounts a
// blob of the size in bytes (negative: unknown) is worth.
func budget(size int64) int {
	switch {
	case size > 10<<20:
		return 4
	case size > 100<<10 || size < 0:
		return 3
	default:
		return 1
	}
}

// plan gathers what is known of a blob: nothing here asks the upstream.
func (f *Forwarder) plan(ctx context.Context, e errand) (*blob, error) {
	b := &blob{errand: e, f: f}
	sources, err := f.meta.Sources(ctx, e.owner, e.Digest, e.repo.Host)
	if err != nil {
		return nil, err
	}
	p, known, err := f.meta.Presence(ctx, e.repo, e.Digest)
	if err != nil {
		return nil, err
	}
	// The same as believed, with the sources at hand.
	b.present = !e.verify && known && fresh(p, time.Now()) && slices.Contains(sources, e.repo)
	granted, err := f.meta.Granted(ctx, e.t.Principal, e.Digest)
	if err != nil {
		return nil, err
	}
	if granted {
		size, err := f.cache.Stat(ctx, e.Digest)
		switch {
		case err == nil:
			b.ours, b.Size, b.arrival = true, size, nil
		case !errors.Is(err, blobcache.ErrUnknown):
			return nil, err
		}
	}
	b.ours = b.ours || b.arrival != nil
	b.sources = f.candidates(b, sources)
	return b, nil
}

// candidates orders the sources as docker does, the client's own hint first, and
// leaves out those that the upstream declined lately.
func (f *Forwarder) candidates(b *blob, known []oci.Repo) []oci.Repo {
	ranked := metadata.Rank(known, b.repo, len(known))
	if hint := (oci.Repo{Host: b.repo.Host, Name: b.hint}); hint.Name != "" && hint != b.repo {
		ranked = append([]oci.Repo{hint}, slices.DeleteFunc(ranked, func(r oci.Repo) bool { return r == hint })...)
	}
	ranked = slices.DeleteFunc(ranked, func(source oci.Repo) bool { return f.refused.lately(b.route(source), b.Digest) })
	return ranked[:min(len(ranked), budget(b.Size))]
}

func (b *blob) route(source oci.Repo) route { return route{b.owner, source, b.repo} }

// learned records that the upstream holds the blob, as evidence says.
func (b *blob) learned(ctx context.Context, how metadata.Evidence) error {
	return b.f.note(ctx, b.owner, b.repo, b.Digest, how, b.Size)
}
