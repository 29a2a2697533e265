package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// watch ends a request that makes no progress for its limit. Reading the
// request's body pauses it: a slow local reader is not the upstream's fault.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  atomic.Int64 // a time.Duration; a transport may still read the body while it changes
	timer  *time.Timer
}

// startWatch returns a watch whose context ends with errStalled after limit.
func startWatch(ctx context.Context, limit time.Duration) *watch {
	w := &watch{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.limit.Store(int64(limit))
	w.timer = time.AfterFunc(limit, func() {
		w.cancel(fmt.Errorf("%w (%s)", errStalled, time.Duration(w.limit.Load())))
	})
	return w
}

// set changes the limit and starts it anew.
func (w *watch) set(limit time.Duration) {
	w.limit.Store(int64(limit))
	w.resume()
}

func (w *watch) pause()  { w.timer.Stop() }
func (w *watch) resume() { w.timer.Reset(time.Duration(w.limit.Load())) }

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain returns the watch's own error where it is what ended the request.
func (w *watch) explain(err error) error {
	if cause := context.Cause(w.ctx); err != nil && errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// sentBody is a request's body under watch.
type sentBody struct {
	io.ReadCloser
	w *watch
	e *exchange // nil: nobody counts
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.w.pause()
	defer b.w.resume()
	n, err := b.ReadCloser.Read(p)
	if b.e != nil {
		b.e.sent.Add(int64(n))
	}
	return n, err
}

// gotBody is an answer's body under watch: only time spent inside Read counts,
// and an upstream that drips is no better than one that has stopped.
type gotBody struct {
	io.ReadCloser
	w    *watch
	left time.Duration // of waiting for
	want int           // so many bytes more
}

func (b *gotBody) Read(p []byte) (int, error) {
	began := time.Now()
	b.w.set(b.left)
	n, err := b.ReadCloser.Read(p)
	b.w.pause()
	b.left -= time.Since(began)
	if b.want -= n; b.want <= 0 {
		b.left, b.want = idleBody, leastBody
	}
	if err != nil && err != io.EOF {
		err = b.w.explain(err)
	}
	return n, err
}

func (b *gotBody) Close() error {
	err := b.ReadCloser.Close()
	b.w.end()
	return err
}
