package forward

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

const (
	// gatherAtOnce bounds the blobs, and the children, of one manifest that are
	// looked after at once; the lane bounds their uploads.
	gatherAtOnce = 16
	// maxIndexDepth is how deep indexes may hold indexes.
	maxIndexDepth = 8
)

// run is a job while it is carried out.
type run struct {
	Job
	f        *Forwarder
	owner    metadata.Owner
	depth    int
	verify   bool // the upstream lost something: only what it says now counts
	outcomes []Outcome
}

// unchanged asks, where this owner is known to have seen the manifest in the
// repository, whether the reference still means it: then one HEAD is the whole
// push. A manifest with a subject is put again, since only the answer to a PUT
// says whether the upstream keeps referrers.
func (r *run) unchanged(ctx context.Context) (bool, error) {
	if r.Manifest.Subject != nil || len(r.Tags) > 0 {
		return false, nil
	}
	sources, err := r.f.meta.Sources(ctx, r.owner, r.Digest, r.Repo.Host)
	if err != nil || !slices.Contains(sources, r.Repo) {
		return false, err
	}
	there, found, err := r.Target.Client.HeadManifest(ctx, r.Repo, r.Reference(), oci.ManifestTypes)
	if err != nil || !found || there.Digest != r.Digest {
		// An upstream whose HEAD is broken may well take the PUT.
		return false, ctx.Err()
	}
	granted, err := r.f.meta.Granted(ctx, r.Target.Principal, r.Digest)
	if err != nil || granted {
		return true, err
	}
	// It was seen as the child of an index; now this principal has brought it.
	return true, r.record(ctx)
}

// gather makes the repository hold all that the manifest names: the children of
// an index first, then its blobs.
func (r *run) gather(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(gatherAtOnce)
	for _, d := range r.Manifest.Manifests {
		r.f.together(group, func() error { return r.child(groupCtx, d) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	r.outcomes = make([]Outcome, len(r.Manifest.Blobs))
	group, groupCtx = errgroup.WithContext(ctx)
	group.SetLimit(gatherAtOnce)
	for i, d := range r.Manifest.Blobs {
		r.f.together(group, func() error {
			e := errand{Descriptor: d, t: r.Target, owner: r.owner, repo: r.Repo, verify: r.verify}
			o, err := r.f.ensure(groupCtx, e)
			if d.Foreign() && errors.Is(err, oci.ErrManifestBlobUnknown) {
				o, err = Outcome{Digest: d.Digest, Size: d.Size, How: Foreign}, nil
			}
			r.outcomes[i] = o
			return err
		})
	}
	return group.Wait()
}

// child makes the repository hold a manifest that an index names. One that this
// principal never pushed here is left to the upstream's own judgement: some take
// an index whose children are elsewhere.
func (r *run) child(ctx context.Context, d oci.Descriptor) error {
	if r.depth >= maxIndexDepth {
		return oci.ErrManifestInvalid.With("manifest: indexes are nested more than %d deep", maxIndexDepth)
	}
	known, err := r.f.believed(ctx, r.owner, r.Repo, d.Digest)
	if err != nil || known {
		return err
	}
	accept := slices.DeleteFunc([]string{d.MediaType, "*/*"}, func(s string) bool { return s == "" })
	_, found, err := r.Target.Client.HeadManifest(ctx, r.Repo, d.Digest.String(), accept)
	if err != nil {
		return err
	}
	if found {
		return r.f.note(ctx, r.owner, r.Repo, d.Digest, metadata.Named, d.Size)
	}
	granted, err := r.f.meta.Granted(ctx, r.Target.Principal, d.Digest)
	if err != nil || !granted {
		return err
	}
	stored, ok, err := r.f.meta.Manifest(ctx, r.Repo, d.Digest)
	if err != nil || !ok {
		return err
	}
	m, err := oci.ParseManifest(stored.MediaType, stored.Raw)
	if err != nil {
		return err
	}
	_, err = r.f.push(ctx, Job{ID: r.ID, Target: r.Target, Repo: r.Repo, Manifest: m, Digest: d.Digest}, r.depth+1)
	return err
}

func (r *run) put(ctx context.Context) (upstream.PutResult, error) {
	return r.Target.Client.PutManifest(ctx, r.Repo, r.Reference(), r.Manifest.MediaType, r.Manifest.Raw, r.Tags)
}

// heal forgets what was believed of all that the manifest names, and gathers it
// again by what the upstream says now.
func (r *run) heal(ctx context.Context) error {
	var errs []error
	for _, d := range slices.Concat(r.Manifest.Blobs, r.Manifest.Manifests) {
		errs = append(errs, r.f.forget(ctx, r.owner, r.Repo, d.Digest))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.verify = true
	return r.gather(ctx)
}

// refusedButThere tells a refusal that does not matter: registries with
// immutable tags refuse even the very manifest that the tag has
// (aws/containers-roadmap#2380).
func (r *run) refusedButThere(ctx context.Context, refusal error) bool {
	var e *oci.Error
	if r.Tag == "" || len(r.Tags) > 0 || !errors.As(refusal, &e) || e.Status/100 != 4 {
		return false
	}
	if errors.Is(refusal, oci.ErrManifestBlobUnknown) || errors.Is(refusal, oci.ErrTooManyRequests) {
		return false
	}
	there, found, err := r.Target.Client.HeadManifest(ctx, r.Repo, r.Tag, oci.ManifestTypes)
	return err == nil && found && there.Digest == r.Digest
}

// kept is the result where the upstream keeps what it has.
func (r *run) kept() Result {
	return Result{PutResult: upstream.PutResult{Digest: r.Digest}, Unchanged: true, Blobs: r.report()}
}

// report returns how each blob came to be there, for the last time.
func (r *run) report() []Outcome {
	outcomes := make([]Outcome, 0, len(r.Manifest.Blobs))
	for i, d := range r.Manifest.Blobs {
		last := Outcome{Digest: d.Digest, Size: d.Size, How: Skipped}
		if r.outcomes != nil {
			last = r.outcomes[i]
		}
		outcomes = append(outcomes, r.f.landed.take(landingKey{r.Target.Principal, r.Repo, d.Digest}, last))
	}
	return outcomes
}

// record notes what the upstream now holds. The manifest is kept, so that an
// index can be healed and what was pushed can be read back.
func (r *run) record(ctx context.Context) error {
	f := r.f
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(notesAtOnce)
	f.together(group, func() error {
		return errors.Join(
			f.meta.PutManifest(ctx, r.Repo, r.Digest, metadata.Manifest{MediaType: r.Manifest.MediaType, Raw: r.Manifest.Raw}),
			f.meta.Grant(ctx, r.Target.Principal, r.Digest),
			f.note(ctx, r.owner, r.Repo, r.Digest, metadata.Named, int64(len(r.Manifest.Raw))))
	})
	for _, d := range r.Manifest.Blobs {
		if !d.Foreign() {
			f.together(group, func() error { return f.note(ctx, r.owner, r.Repo, d.Digest, metadata.Named, d.Size) })
		}
	}
	return group.Wait()
}
