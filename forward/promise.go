package forward

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/metadata"
	"pushproxy/oci"
)

// lookFor bounds the question to the upstream about one thing that a promised
// manifest names and that is not here: without an answer it counts as missing.
const lookFor = 2 * time.Second

// Accept promises a push: when it returns, all that the manifest names is here
// and survives a power cut, or is known to be in the repository, and the job is
// in the journal. What is missing is oci.ErrManifestBlobUnknown. The credential
// is what people call the one that the push is accepted with.
func (q *Queue) Accept(ctx context.Context, job Job, credential string) (metadata.Job, error) {
	f := q.Forward
	if err := f.begin(); err != nil {
		return metadata.Job{}, err
	}
	defer f.running.Done()
	owner, err := job.Target.Owner(ctx, job.Repo)
	if err != nil {
		return metadata.Job{}, err
	}
	p := &promise{f: f, t: job.Target, repo: job.Repo, owner: owner, needs: []digest.Digest{job.Digest}}
	defer func() {
		for _, unpin := range p.pins {
			unpin()
		}
	}()
	if err := p.check(ctx, job.Manifest, 0); err != nil {
		return metadata.Job{}, err
	}
	if err := f.cache.Barrier(ctx, p.here...); errors.Is(err, blobcache.ErrUnknown) {
		return metadata.Job{}, oci.ErrManifestBlobUnknown.With("a blob of the manifest left the proxy's cache: push it again").Because(err)
	} else if err != nil {
		return metadata.Job{}, err
	}
	err = errors.Join(
		f.meta.PutManifest(ctx, job.Repo, job.Digest, metadata.Manifest{MediaType: job.Manifest.MediaType, Raw: job.Manifest.Raw}),
		f.meta.Grant(ctx, job.Target.Principal, job.Digest))
	if err != nil {
		return metadata.Job{}, err
	}
	tags := slices.Clone(job.Tags)
	if job.Tag != "" {
		tags = append([]string{job.Tag}, slices.DeleteFunc(tags, func(tag string) bool { return tag == job.Tag })...)
	}
	if job.ID == "" {
		job.ID = f.claimID(job)
	}
	stored, err := f.meta.AddJob(ctx, metadata.Job{
		Push: job.ID, Principal: job.Target.Principal, Owner: owner, Credential: credential, Repo: job.Repo, Tags: tags,
		Digest: job.Digest, MediaType: job.Manifest.MediaType, Size: int64(len(job.Manifest.Raw)), State: metadata.JobQueued,
	})
	if err != nil {
		return metadata.Job{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs[stored.ID] = &queued{Job: stored, needs: p.needs, bytes: p.bytes}
	q.tell()
	q.nudge()
	e := q.about(stored, Accepted)
	e.Job, e.Credential = &job, credential
	f.tell(e)
	return stored, nil
}

// promise is what a manifest needs, while it is gathered.
type promise struct {
	f     *Forwarder
	t     *Target
	repo  oci.Repo
	owner metadata.Owner
	needs []digest.Digest
	bytes int64
	here  []digest.Digest // blobs that will have to come from the cache
	pins  []func()
}

func (p *promise) check(ctx context.Context, m oci.Manifest, depth int) error {
	if depth > maxIndexDepth {
		return oci.ErrManifestInvalid.With("manifest: indexes are nested more than %d deep", maxIndexDepth)
	}
	p.bytes += int64(len(m.Raw))
	for _, d := range m.Blobs {
		p.bytes += d.Size
		p.needs = append(p.needs, d.Digest)
		// Nothing collects it from here on.
		p.pins = append(p.pins, p.f.cache.Pin(d.Digest))
		if err := p.blob(ctx, d); err != nil {
			return err
		}
	}
	for _, d := range m.Manifests {
		p.needs = append(p.needs, d.Digest)
		if err := p.child(ctx, d, depth); err != nil {
			return err
		}
	}
	return nil
}

func (p *promise) blob(ctx context.Context, d oci.Descriptor) error {
	granted, err := p.f.meta.Granted(ctx, p.t.Principal, d.Digest)
	if err != nil {
		return err
	}
	if granted {
		_, err := p.f.cache.Stat(ctx, d.Digest)
		if err == nil {
			p.here = append(p.here, d.Digest)
			return nil
		}
		if !errors.Is(err, blobcache.ErrUnknown) {
			return err
		}
	}
	there, err := p.f.believed(ctx, p.owner, p.repo, d.Digest)
	if err != nil || there || d.Foreign() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	if size, found, err := p.t.Client.HeadBlob(ctx, p.repo, d.Digest); err == nil && found {
		return p.f.note(context.WithoutCancel(ctx), p.owner, p.repo, d.Digest, metadata.Seen, size)
	}
	return oci.ErrManifestBlobUnknown.With("blob %s is neither among what this proxy received from you nor known to be in %s: push it again", d.Digest, p.repo)
}

func (p *promise) child(ctx context.Context, d oci.Descriptor, depth int) error {
	granted, err := p.f.meta.Granted(ctx, p.t.Principal, d.Digest)
	if err != nil {
		return err
	}
	if granted {
		stored, ok, err := p.f.meta.Manifest(ctx, p.repo, d.Digest)
		if err != nil {
			return err
		}
		if ok {
			m, err := oci.ParseManifest(stored.MediaType, stored.Raw)
			if err != nil {
				return err
			}
			return p.check(ctx, m, depth+1)
		}
	}
	there, err := p.f.believed(ctx, p.owner, p.repo, d.Digest)
	if err != nil || there {
		return err
	}
	look, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	if _, found, err := p.t.Client.HeadManifest(look, p.repo, d.Digest.String(), oci.ManifestTypes); err == nil && found {
		return p.f.note(ctx, p.owner, p.repo, d.Digest, metadata.Named, d.Size)
	}
	return oci.ErrManifestBlobUnknown.With("the index names manifest %s, which is neither here nor known to be in %s: push that first", d.Digest, p.repo)
}
