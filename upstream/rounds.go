package upstream

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"pushproxy/oci"
)

// round makes one attempt at the whole blob and decides what comes next.
func (s *sending) round(ctx context.Context) (done bool, err error) {
	u := s.u
	if u.session == nil {
		s.at, s.resumed = 0, false
		if err := u.start(ctx); err != nil {
			return false, err
		}
	}
	if err := u.c.calm(ctx); err != nil {
		return false, s.t.ended(ctx)
	}
	s.t.begin()
	k, a, err := s.attempt(ctx)
	if _, fault := s.src.state(); fault != nil {
		return false, fmt.Errorf("read blob %s, which was to be uploaded to %s: %w", u.Digest, u.Repo, fault)
	}
	if ctx.Err() != nil {
		return false, s.t.ended(ctx)
	}
	f, transient := judge(a, err)
	switch {
	case transient:
		return s.recover(ctx, k, a, err, f)
	case err != nil:
		return false, u.c.unreachable(k, err)
	case a.ok():
		if err := u.confirm(ctx, k, a, s.size); err != nil {
			return false, err
		}
		s.remember()
		return true, nil
	case s.another(ctx, a):
		return false, nil
	case slices.Contains(codes(a.text), oci.ErrDigestInvalid.Code):
		return false, oci.ErrDigestInvalid.With("%s says that what it received is not blob %s%s; try again, and check the local store if it says so again", u.c.Host, u.Digest, words(a.text))
	}
	return false, u.c.fail(ctx, k, a, oci.ErrBlobUploadUnknown)
}

// attempt sends what the session does not hold yet, in the way in use, and
// returns the last request with its answer.
func (s *sending) attempt(ctx context.Context) (call, *answer, error) {
	switch {
	case s.ways[0] == chunks:
		return s.inChunks(ctx)
	case s.ways[0] == whole && s.at == 0:
		return s.put(ctx, 0)
	}
	if s.size < 0 || s.at < s.size {
		n := int64(-1)
		if s.size >= 0 {
			n = s.size - s.at
		}
		k, a, err := s.patch(ctx, s.at, n)
		if err == nil && a.ok() {
			err = s.u.moved(a)
		}
		if err != nil || !a.ok() {
			return k, a, err
		}
		s.at, _ = s.src.state()
	}
	return s.put(ctx, max(s.size, 0))
}

func (s *sending) inChunks(ctx context.Context) (call, *answer, error) {
	for s.at < s.size {
		n := min(s.chunk, s.size-s.at)
		if s.at+n == s.size && s.u.c.quirk().LastInPut {
			return s.put(ctx, s.at)
		}
		k, a, err := s.patch(ctx, s.at, n)
		if err == nil && a.ok() {
			err = s.u.moved(a)
		}
		if err != nil || !a.ok() {
			return k, a, err
		}
		s.at += n
	}
	return s.put(ctx, s.size)
}

// recover waits after a failure that may pass, and finds out what the upstream
// has: the part to go on from, the whole blob, or nothing.
func (s *sending) recover(ctx context.Context, k call, a *answer, cause error, f failure) (done bool, err error) {
	u := s.u
	for {
		if !s.t.more(f) {
			if cause != nil {
				return false, u.c.unreachable(k, cause)
			}
			return false, u.c.fail(ctx, k, a, oci.ErrBlobUploadUnknown)
		}
		if err := s.t.wait(ctx, f); err != nil {
			return false, err
		}
		s.t.begin()
		off, err := u.Offset(ctx)
		if ctx.Err() != nil {
			return false, s.t.ended(ctx)
		}
		if err != nil && !conclusive(err) {
			f, a, cause = failure{why: plain(err.Error()), cause: err}, nil, err
			continue
		}
		if err == nil && s.resume(off) {
			return false, nil
		}
		if u.there(ctx, s.size) {
			u.session = nil
			s.remember()
			return true, nil
		}
		s.afresh(ctx, err == nil)
		return false, nil
	}
}

// resume goes on from off where that is possible. Progress earns new attempts.
func (s *sending) resume(off int64) bool {
	if off > 0 && (s.refuse || s.u.c.quirk().WholeOnly || s.size >= 0 && off > s.size) {
		return false
	}
	s.at, s.resumed = off, off > 0
	if off > s.best {
		s.best, s.t.n, s.t.delay = off, 0, 0
	}
	return true
}

// another reports whether the blob is worth sending in another way, or again,
// after an answer that is final for the way in use. It prepares that.
func (s *sending) another(ctx context.Context, a *answer) bool {
	said := codes(a.text)
	is := func(e *oci.Error) bool { return slices.Contains(said, e.Code) }
	lost := is(oci.ErrBlobUploadUnknown)
	switch {
	case a.Status/100 != 4 && a.Status != http.StatusNotImplemented,
		a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden,
		is(oci.ErrNameUnknown), is(oci.ErrNameInvalid), is(oci.ErrDenied), is(oci.ErrUnauthorized):
		return false
	case is(oci.ErrDigestInvalid):
		// Damaged on the way, or by a resume that went wrong: once more.
		if s.whole0 {
			return false
		}
		s.whole0, s.refuse = true, true
	case lost && !s.lost:
		s.lost = true
	case s.resumed && !s.refuse:
		s.refuse = true
	default:
		if !s.nextWay(a.Status) {
			return false
		}
		s.teach = s.teach || !lost
	}
	s.afresh(ctx, !lost)
	return true
}

// nextWay moves on from a way that was refused with status.
func (s *sending) nextWay(status int) bool {
	switch status {
	case http.StatusRequestEntityTooLarge:
		if s.ways[0] == chunks || !slices.Contains(s.ways, chunks) {
			return s.ways[0] == chunks && s.smaller()
		}
		s.u.c.learn(func(l *learned) { l.body = s.size })
		s.ways = []way{chunks}
		return true
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusLengthRequired,
		http.StatusUnsupportedMediaType, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		if s.ways[0] == chunks {
			return status == http.StatusRequestedRangeNotSatisfiable && s.smaller()
		}
		if len(s.ways) > 1 {
			s.ways = s.ways[1:]
			return true
		}
	}
	return false
}

// smaller halves the chunks.
func (s *sending) smaller() bool {
	s.chunk /= 2
	return s.chunk >= max(smallChunk, s.u.chunkMin, s.u.c.quirk().ChunkMin)
}

// afresh gives the session up; the next round opens another. What it holds is
// the upstream's to sweep if it cannot be cancelled now.
func (s *sending) afresh(ctx context.Context, cancel bool) {
	if cancel {
		ctx, stop := context.WithTimeout(ctx, cancelBudget)
		defer stop()
		_ = s.u.Cancel(ctx)
	}
	s.u.session = nil
}

// remember teaches the client what worked where something else was refused.
func (s *sending) remember() {
	if !s.teach {
		return
	}
	s.u.c.learn(func(l *learned) {
		// A body that was too large says nothing about smaller ones.
		if l.body == 0 {
			l.way = s.ways[0]
		}
		if s.ways[0] == chunks {
			l.chunk = s.chunk
		}
	})
}
