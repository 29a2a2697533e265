package forward

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

const (
	// gatherAtOnce bounds the blobs of one push that are looked after at once;
	// the lane bounds their uploads.
	gatherAtOnce = 16
	// maxIndexDepth is how deep indexes may hold indexes.
	maxIndexDepth = 8
)

// unchanged asks, where this proxy has pushed the manifest before, whether the
// reference still means it: then one HEAD is the whole push. A manifest with a
// subject is put again, since only the answer to a PUT says whether the upstream
// keeps referrers.
func (f *Forwarder) unchanged(ctx context.Context, job Job) (bool, error) {
	if job.Manifest.Subject != nil || len(job.Tags) > 0 {
		return false, nil
	}
	if _, known, err := f.meta.Presence(ctx, job.Repo, job.Digest); err != nil || !known {
		return false, err
	}
	there, found, err := job.Target.Client.HeadManifest(ctx, job.Repo, job.Reference(), oci.ManifestTypes)
	// An upstream whose HEAD is broken may well take the PUT.
	return err == nil && found && there.Digest == job.Digest, nil
}

func (f *Forwarder) unchangedResult(job Job) Result {
	r := Result{PutResult: upstream.PutResult{Digest: job.Digest}, Unchanged: true}
	for _, d := range job.Manifest.Blobs {
		r.Blobs = append(r.Blobs, f.report(flightKey{job.Repo, d.Digest}, Outcome{Digest: d.Digest, Size: d.Size, How: Skipped}))
	}
	return r
}

// gather makes the repository hold all that the manifest names: the children of
// an index first, then its blobs, all at once.
func (f *Forwarder) gather(ctx context.Context, job Job, depth int) ([]Outcome, error) {
	for _, child := range job.Manifest.Manifests {
		if err := f.child(ctx, job, child, depth); err != nil {
			return nil, err
		}
	}
	outcomes := make([]Outcome, len(job.Manifest.Blobs))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(gatherAtOnce)
	for i, d := range job.Manifest.Blobs {
		group.Go(func() error {
			o, err := f.Blob(groupCtx, job.Target, job.Repo, d, "")
			if d.Foreign() && errors.Is(err, oci.ErrManifestBlobUnknown) {
				o, err = Outcome{Digest: d.Digest, Size: d.Size, How: Foreign}, nil
			}
			if err == nil {
				outcomes[i] = f.report(flightKey{job.Repo, d.Digest}, o)
			}
			return err
		})
	}
	err := group.Wait()
	return outcomes, err
}

// child makes the repository hold a manifest that an index names. One that this
// proxy never saw is left to the upstream's own judgement: some take an index
// whose children are elsewhere.
func (f *Forwarder) child(ctx context.Context, job Job, d oci.Descriptor, depth int) error {
	if depth >= maxIndexDepth {
		return oci.ErrManifestInvalid.With("manifest: indexes are nested more than %d deep", maxIndexDepth)
	}
	p, known, err := f.meta.Presence(ctx, job.Repo, d.Digest)
	if err != nil || known && p.How == metadata.Named {
		return err
	}
	_, found, err := job.Target.Client.HeadManifest(ctx, job.Repo, d.Digest.String(), []string{d.MediaType, "*/*"})
	if err != nil {
		return err
	}
	if found {
		return f.meta.SetPresence(ctx, job.Repo, d.Digest, metadata.Named, d.Size)
	}
	granted, err := f.meta.Granted(ctx, job.Target.Principal, d.Digest)
	if err != nil || !granted {
		return err
	}
	stored, ok, err := f.meta.Manifest(ctx, job.Repo, d.Digest)
	if err != nil || !ok {
		return err
	}
	m, err := oci.ParseManifest(stored.MediaType, stored.Raw)
	if err != nil {
		return err
	}
	_, err = f.push(ctx, Job{Target: job.Target, Repo: job.Repo, Manifest: m, Digest: d.Digest}, depth+1)
	return err
}

// forgetAll forgets what was believed of everything the manifest names.
func (f *Forwarder) forgetAll(ctx context.Context, job Job) error {
	var errs []error
	for _, d := range append(append([]oci.Descriptor{}, job.Manifest.Blobs...), job.Manifest.Manifests...) {
		errs = append(errs, f.forget(ctx, job.Target, job.Repo, d.Digest))
	}
	return errors.Join(errs...)
}

// record notes what the upstream now holds. The manifest is kept, so that an
// index can be healed and what was pushed can be read back.
func (f *Forwarder) record(ctx context.Context, job Job) error {
	owner, err := job.Target.Owner(ctx, job.Repo)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return errors.Join(
			f.meta.PutManifest(ctx, job.Repo, job.Digest, metadata.Manifest{MediaType: job.Manifest.MediaType, Raw: job.Manifest.Raw}),
			f.meta.Grant(ctx, job.Target.Principal, job.Digest),
			f.meta.SetPresence(ctx, job.Repo, job.Digest, metadata.Named, int64(len(job.Manifest.Raw))))
	})
	for _, d := range job.Manifest.Blobs {
		if d.Foreign() {
			continue
		}
		group.Go(func() error {
			return errors.Join(
				f.meta.SetPresence(ctx, job.Repo, d.Digest, metadata.Named, d.Size),
				f.meta.AddSource(ctx, owner, d.Digest, job.Repo))
		})
	}
	return group.Wait()
}
