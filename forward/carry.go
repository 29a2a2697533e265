package forward

import (
	"context"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
)

// upload sends the blob, unless somebody else is sending it to the repository:
// then it waits for the end of that and asks the upstream again. Only who may
// upload gets to wait: to wait is to learn that the blob is on its way.
func (b *blob) upload(ctx context.Context) (How, error) {
	if !b.ours {
		return "", oci.ErrManifestBlobUnknown.With(
			"blob %s is neither in %s nor among what this proxy received from you: push it again", b.Digest, b.repo)
	}
	b.tell(b.f, Event{Status: Waiting})
	for {
		free, busy := claim(b.f, b.f.sending, blobKey{b.repo, b.Digest})
		if free != nil {
			defer free()
			return b.carry(ctx)
		}
		if err := b.start(ctx); err != nil {
			return "", err
		}
		if err := wait(ctx, busy); err != nil {
			return "", err
		}
		if there, err := b.look(ctx); err != nil || there {
			return Skipped, err
		}
	}
}

func wait(ctx context.Context, end <-chan struct{}) error {
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// carryKey is a blob on its way from an owner to any repository of an upstream.
type carryKey struct {
	owner  metadata.Owner
	host   string
	digest digest.Digest
}

// carry sends the blob, unless its owner is sending it to another repository of
// the upstream: its bytes cross the link once, and are mounted from there.
func (b *blob) carry(ctx context.Context) (How, error) {
	twin, waited, err := b.stream.awaitTwin(ctx, b.Digest, b.Size)
	if err != nil {
		return "", err
	}
	b.stream = twin
	for !b.verify {
		if waited {
			tried, mounted, err := b.mountNew(ctx)
			if mounted || err != nil {
				return Mounted, err
			}
			if tried {
				// The upstream does not mount between these two.
				break
			}
		}
		free, busy := claim(b.f, b.f.carried, carryKey{b.owner, b.repo.Host, b.Digest})
		if free != nil {
			defer free()
			break
		}
		if err := wait(ctx, busy); err != nil {
			return "", err
		}
		waited = true
	}
	return Uploaded, b.send(ctx)
}

// mountNew tries the sources that were learned since the plan was made.
func (b *blob) mountNew(ctx context.Context) (tried, mounted bool, err error) {
	known, err := b.f.meta.Sources(ctx, b.owner, b.Digest, b.repo.Host)
	if err != nil {
		return false, false, err
	}
	if b.sources = b.f.candidates(b, known); len(b.sources) == 0 {
		return len(known) > 0, false, nil
	}
	mounted, err = b.mount(ctx)
	return true, mounted, err
}
