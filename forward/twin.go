package forward

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/metadata"
)

// twinFor is how long a blob that is whole waits for a client that is sending
// the same, and again while that would be done in as long.
const twinFor = time.Minute

var errTwin = errors.New("what begins with the same bytes is being sent already")

// prefixKey tells uploads that look like the same blob for the same upstream.
type prefixKey struct {
	principal string
	owner     metadata.Owner
	host      string
	first     uint64 // hash of the first chunk: two that share it by chance wait for each other, no more
}

// alone makes this the only stream of what begins with the same chunk, until it
// is over: many clients that send one base image are one upload, and mounts.
func (s *stream) alone(ctx context.Context) error {
	r, err := s.f.cache.Follow(ctx, s.upload)
	if err != nil {
		return err
	}
	defer r.Close()
	var first maphash.Hash
	first.SetSeed(s.f.streams.seed)
	if _, err := io.CopyN(&first, r, blobcache.ChunkSize); err != nil {
		return err
	}
	s.key = prefixKey{s.t.Principal, s.owner, s.repo.Host, first.Sum64()}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.twin = s.f.streams.prefixes[s.key]; s.twin != nil {
		return errTwin
	}
	s.f.streams.prefixes[s.key] = s
	return nil
}

// awaitTwin waits, where another stream sends the same bytes, for that: as long
// as it takes if they are all here, if its client is still sending for twinFor and
// as long as the size bytes will be there soon at its pace so far.
// It returns the stream itself if that is the same blob's way to the same place,
// to be finished, and whether it is worth looking where the blob is now.
func (s *stream) awaitTwin(ctx context.Context, d digest.Digest, size int64) (same *stream, waited bool, err error) {
	if s == nil || !s.ended() || s.twin == nil {
		return s, false, nil
	}
	patience := time.NewTimer(twinFor)
	defer patience.Stop()
	for whole := false; !whole; {
		select {
		case <-s.twin.over:
			return nil, true, nil
		case <-patience.C:
			if !s.twin.arrival.within(twinFor, size) {
				return nil, false, nil
			}
			patience.Reset(twinFor)
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		case <-s.twin.taken:
			whole = true
		}
	}
	switch {
	case s.twin.digest != d:
		return nil, false, nil
	case s.twin.repo == s.repo:
		return s.twin, false, nil
	}
	return nil, true, wait(ctx, s.twin.over)
}
