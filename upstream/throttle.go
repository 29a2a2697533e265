package upstream

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// Throttle sends through Base, with the bodies of its requests at Rate.
type Throttle struct {
	Base http.RoundTripper
	Rate *Rate
}

// Rate is what everybody who uses it may send together.
type Rate struct {
	PerSecond int64 // bytes; set before the first use

	mu   sync.Mutex
	free time.Time // when what was sent so far has been paid for
}

// throttleStep is the most that is sent in one go, in bytes: the rate holds on
// the scale of a second, and no request's progress seems to have stopped.
const throttleStep = 64 << 10

// RoundTrip implements http.RoundTripper.
func (t Throttle) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return t.Base.RoundTrip(r)
	}
	slow := r.Clone(r.Context())
	slow.Body = &slowBody{ReadCloser: r.Body, t: t.Rate, ctx: r.Context()}
	if r.GetBody != nil {
		slow.GetBody = func() (io.ReadCloser, error) {
			b, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			return &slowBody{ReadCloser: b, t: t.Rate, ctx: r.Context()}, nil
		}
	}
	return t.Base.RoundTrip(slow)
}

// pay returns how long the sender of n bytes has to wait for its turn.
func (t *Rate) pay(n int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.free.Before(now) {
		t.free = now
	}
	wait := t.free.Sub(now)
	t.free = t.free.Add(time.Duration(float64(n) / float64(t.PerSecond) * float64(time.Second)))
	return wait
}

type slowBody struct {
	io.ReadCloser
	t   *Rate
	ctx context.Context
}

// Read implements io.Reader.
func (b *slowBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), throttleStep)])
	if n > 0 {
		if err := sleep(b.ctx, b.t.pay(n)); err != nil {
			return 0, err
		}
	}
	return n, err
}
