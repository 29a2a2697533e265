package forward

import (
	"context"
	"errors"
	"hash/maphash"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream"
)

const (
	// StreamAfter is how many bytes of a blob whose digest is not known are
	// received before they are sent on. A smaller one is sent when it is whole,
	// which takes one request less.
	StreamAfter = 2 << 20
	// noStreamFor is how long an upstream that refuses streams is sent none.
	noStreamFor = time.Hour
	// streamKept is how long a stream that came to nothing is remembered, so that
	// it is not begun again.
	streamKept = time.Hour
)

// stream sends on what a client is sending, before its digest is known. It is a
// guess: whether the blob was needed shows at its end.
type stream struct {
	f       *Forwarder
	t       *Target
	owner   metadata.Owner
	repo    oci.Repo
	upload  string
	key     prefixKey
	began   time.Time
	cancel  context.CancelCauseFunc
	arrival *arrival
	taken   chan struct{} // closed when the blob is whole and digest is set
	digest  digest.Digest
	over    chan struct{} // closed when the blob is where it belongs, or will not be
	opened  chan struct{} // closed when token is set
	token   string        // of the session
	done    chan struct{} // closed when session, twin and err are set
	session *upstream.Upload
	twin    *stream // that sends the same bytes, with errTwin
	err     error
}

// streams are the streams by the upload that they follow.
type streams struct {
	byUpload map[string]*stream
	prefixes map[prefixKey]*stream
	seed     maphash.Seed
	refused  map[string]time.Time // hosts that take none, until when
}

// Streaming begins to send on the blob that arrives under an upload, of which
// at least StreamAfter bytes have been received and whose digest is not known.
// Calling it again for an upload does nothing. What goes wrong costs time only:
// the blob is sent from the cache when it is whole.
func (f *Forwarder) Streaming(t *Target, repo oci.Repo, upload string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.streams.byUpload[upload] != nil || time.Now().Before(f.streams.refused[repo.Host]) || !t.Client.Streams() {
		return
	}
	for id, old := range f.streams.byUpload {
		if time.Since(old.began) > streamKept && old.ended() {
			delete(f.streams.byUpload, id)
			if old.session != nil {
				f.abandon(old.errand(), old.session)
				old.session = nil
			}
		}
	}
	ctx, cancel := f.within(doing(context.Background(), errandOf{upload: upload}))
	s := &stream{
		f: f, t: t, repo: repo, upload: upload, began: time.Now(), cancel: cancel, arrival: &arrival{},
		taken: make(chan struct{}), over: make(chan struct{}), opened: make(chan struct{}), done: make(chan struct{}),
	}
	f.streams.byUpload[upload] = s
	f.running.Add(1)
	go func() {
		defer f.running.Done()
		defer cancel(nil)
		s.err = f.guarded(func() error { return s.run(ctx) })
		s.arrival.ended.Store(true)
		if s.err != nil {
			if !brokeOff(ctx, s.err) {
				s.abandon()
			}
			s.end()
		}
		close(s.done)
	}()
}

func (s *stream) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// run sends until the upload has become a blob. Only then does its reader end.
func (s *stream) run(ctx context.Context) (err error) {
	if s.owner, err = s.t.Owner(ctx, s.repo); err != nil {
		return err
	}
	if err := s.alone(ctx); err != nil {
		return err
	}
	lane := s.f.lane(s.repo.Host)
	place, err := lane.acquire(ctx, s.t.Principal, StreamAfter)
	if err != nil {
		return err
	}
	defer func() { lane.release(place, err) }()
	// A blob that became whole meanwhile is not here any more, and better sent
	// from the cache.
	r, err := s.f.cache.Follow(ctx, s.upload)
	if err != nil {
		return err
	}
	if s.session, _, err = s.t.Client.StartUpload(ctx, s.repo, "", ""); err != nil {
		r.Close()
		return err
	}
	s.token = s.session.Token()
	close(s.opened)
	_, err = s.session.Stream(ctx, &telling{ReadCloser: s.arrival.patient(r, s.cancel), s: s})
	if e := (*oci.Error)(nil); errors.As(err, &e) && e.Status/100 == 4 {
		s.f.noStreams(s.repo.Host)
	}
	return err
}

func (f *Forwarder) noStreams(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams.refused[host] = time.Now().Add(noStreamFor)
}

// end says that the blob is where it belongs, or will not be.
func (s *stream) end() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.streams.prefixes[s.key] == s {
		delete(s.f.streams.prefixes, s.key)
	}
	select {
	case <-s.over:
	default:
		close(s.over)
	}
}

// takeStream returns the stream of an upload that has become the blob d, or nil.
// It is given back with drop.
func (f *Forwarder) takeStream(upload string, d digest.Digest) *stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams.byUpload[upload]
	if s == nil {
		return nil
	}
	delete(f.streams.byUpload, upload)
	s.digest = d
	close(s.taken)
	return s
}

var errUnwanted = errors.New("the blob need not be sent")

// sending reports whether there is a stream that may still be of use.
func (s *stream) sending() bool {
	if s == nil {
		return false
	}
	select {
	case <-s.done:
		return s.err == nil
	default:
		return true
	}
}

// drop ends a stream whose flight is over. Its upload, if it has not become the
// blob, is given back.
func (s *stream) drop() {
	if s == nil {
		return
	}
	s.cancel(errUnwanted)
	s.end()
	s.f.running.Add(1)
	s.f.aside(func() {
		<-s.done
		s.abandon()
	})
}

// finish waits until everything is sent and closes the upload as the blob. An
// error means that the blob has to be sent from the cache.
func (s *stream) finish(ctx context.Context, owner metadata.Owner, d digest.Digest) error {
	if err := wait(ctx, s.done); err != nil {
		if errors.Is(err, ErrClosed) {
			// The stream ends with the forwarder too. Who does not wait for that
			// finds no session of it to go on with.
			<-s.done
		}
		return err
	}
	switch {
	case s.err != nil:
		return s.err
	case s.owner != owner:
		return errUnwanted
	}
	session := s.take()
	if session == nil {
		return errUnwanted
	}
	err := session.Finish(ctx, d)
	switch {
	case err == nil:
	case brokeOff(ctx, err):
		s.giveBack(session)
	default:
		s.f.abandon(s.errand(), session)
	}
	return err
}
