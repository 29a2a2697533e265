package forward

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pushproxy/metadata"
	"pushproxy/oci"
)

const (
	// presenceFor is how long an upstream may be trusted to keep a blob that no
	// manifest names yet: Quay drops such blobs after an hour.
	presenceFor = 50 * time.Minute
	// namedFor is how long a blob that a manifest names is taken to be there. An
	// upstream that collected it says so when the manifest arrives, and is healed.
	namedFor = 30 * 24 * time.Hour
	// notesAtOnce is how many facts are written side by side: they share fsyncs.
	notesAtOnce = 64
)

// fresh reports whether a presence may be relied on.
func fresh(p metadata.Presence, now time.Time) bool {
	age := now.Sub(p.When)
	return p.How != metadata.Deleted && age >= 0 && (age < presenceFor || (p.How == metadata.Named && age < namedFor))
}

// Fresh reports whether a presence is worth no further look for now. Whether it
// may be relied on depends on who asks.
func Fresh(p metadata.Presence) bool { return fresh(p, time.Now()) }

// believed reports whether the repository can be taken to hold a blob or
// manifest without asking the upstream. What others saw there does not count:
// to rely on it would tell this owner of a repository they may not read.
func (f *Forwarder) believed(ctx context.Context, owner metadata.Owner, repo oci.Repo, d digest.Digest) (bool, error) {
	p, known, err := f.meta.Presence(ctx, repo, d)
	if err != nil || !known || !fresh(p, time.Now()) {
		return false, err
	}
	sources, err := f.meta.Sources(ctx, owner, d, repo.Host)
	return slices.Contains(sources, repo), err
}

// note records what the upstream's answer to the owner's credential showed.
func (f *Forwarder) note(ctx context.Context, owner metadata.Owner, repo oci.Repo, d digest.Digest, how metadata.Evidence, size int64) error {
	return errors.Join(
		f.meta.SetPresence(ctx, repo, d, how, size),
		f.meta.AddSource(ctx, owner, d, repo))
}

// forget drops what is believed of a blob or manifest in a repository.
func (f *Forwarder) forget(ctx context.Context, owner metadata.Owner, repo oci.Repo, d digest.Digest) error {
	return errors.Join(f.meta.ForgetPresence(ctx, repo, d), f.meta.DropSource(ctx, owner, d, repo))
}

// Deleted records that the upstream deleted a blob or manifest from a
// repository: until it is pushed there again, only the upstream is asked.
func (f *Forwarder) Deleted(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest) error {
	err := f.meta.SetPresence(ctx, repo, d, metadata.Deleted, -1)
	owner, ownerErr := t.Owner(ctx, repo)
	if ownerErr != nil {
		return errors.Join(err, ownerErr)
	}
	return errors.Join(err, f.meta.DropSource(ctx, owner, d, repo))
}

// Seen records that the upstream showed a blob of size bytes (negative: it did
// not say) to this target's credential.
func (f *Forwarder) Seen(ctx context.Context, t *Target, repo oci.Repo, d digest.Digest, size int64) error {
	owner, err := t.Owner(ctx, repo)
	if err != nil {
		return err
	}
	p, known, err := f.meta.Presence(ctx, repo, d)
	if err != nil {
		return err
	}
	if known && fresh(p, time.Now()) {
		// Better evidence than a look is kept.
		return f.meta.AddSource(ctx, owner, d, repo)
	}
	return f.note(ctx, owner, repo, d, metadata.Seen, size)
}

// Received clears the mark of a deletion: a principal has brought the blob for
// the repository again.
func (f *Forwarder) Received(ctx context.Context, repo oci.Repo, d digest.Digest) error {
	p, known, err := f.meta.Presence(ctx, repo, d)
	if err != nil || !known || p.How != metadata.Deleted {
		return err
	}
	return f.meta.ForgetPresence(ctx, repo, d)
}

// Learn records, behind the caller's back, where the blobs of a manifest are
// that the upstream showed to this target's credential: they can be mounted from
// there later.
func (f *Forwarder) Learn(t *Target, repo oci.Repo, m oci.Manifest) {
	if len(m.Blobs) == 0 || f.begin() != nil {
		return
	}
	f.aside(func() {
		owner, err := t.Owner(f.life, repo)
		if err != nil {
			return
		}
		group, ctx := errgroup.WithContext(f.life)
		group.SetLimit(notesAtOnce)
		for _, d := range m.Blobs {
			if !d.Foreign() {
				f.together(group, func() error { return f.meta.AddSource(ctx, owner, d.Digest, repo) })
			}
		}
		// A fact that is not stored is a mount that is not tried.
		_ = group.Wait()
	})
}
