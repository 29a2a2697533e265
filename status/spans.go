package status

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"pushproxy/oci"
)

const (
	// sharedFor is how long it is remembered which span shows a blob's way upstream,
	// and mostShared how many are.
	sharedFor  = 10 * time.Minute
	mostShared = 1 << 14
)

// Spans makes a trace of each push that has ended: a span for the push, below it
// one for each blob, and below these one for each request to the upstream. A blob
// whose way several pushes waited for is in the trace of the first to end; the
// others have a span that links to it. The id of the push is the attribute "push"
// everywhere.
type Spans struct {
	Tracer trace.Tracer

	mu     sync.Mutex
	shared map[way]shownBy
}

// way tells one blob's way to one repository from every other.
type way struct {
	where
	digest       string
	began, ended int64
}

type shownBy struct {
	span trace.SpanContext
	when time.Time
}

// Ended makes the trace of a push that has ended, with its steps. Parent is the
// client's own span in the form of W3C Trace Context, or empty. It is called for
// one push at a time or for many.
func (s *Spans) Ended(p Push, parent string) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
	id := attribute.String("push", p.ID)
	ctx, root := s.Tracer.Start(ctx, "push", trace.WithTimestamp(p.Started), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		id, attribute.String("principal", p.Principal), attribute.String("upstream", p.Upstream), attribute.String("repository", p.Repository),
		attribute.StringSlice("tags", p.Tags), attribute.String("digest", p.Digest), attribute.String("state", string(p.State)),
		attribute.Bool("async", p.Async), attribute.String("agent", p.Agent),
		attribute.Int64("bytes.sent", p.Sum.SentBytes), attribute.Int64("bytes.mounted", p.Sum.MountedBytes), attribute.Int64("bytes.existed", p.Sum.ExistedBytes),
	))
	if p.State == Failed || p.State == Stopped {
		root.SetStatus(codes.Error, p.Why)
	}
	defer root.End(trace.WithTimestamp(p.Finished))
	if !root.IsRecording() {
		return
	}
	blobs := map[string]bool{}
	for _, b := range p.Blobs {
		blobs[b.Digest] = b.Digest != ""
		s.blob(ctx, p, b)
	}
	for _, step := range p.Steps {
		if !blobs[step.Blob] {
			s.step(ctx, p, step)
		}
	}
}

// blob makes the span of a blob of a push.
func (s *Spans) blob(ctx context.Context, p Push, b Blob) {
	steps := slices.DeleteFunc(slices.Clone(p.Steps), func(step Step) bool { return b.Digest == "" || step.Blob != b.Digest })
	began, ended := b.span(steps)
	if began.IsZero() {
		// Nothing was done for it: it was known to be there.
		return
	}
	options := []trace.SpanStartOption{trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String("push", p.ID), attribute.String("digest", b.Digest), attribute.String("media_type", b.MediaType),
		attribute.Int64("size", b.Size), attribute.String("state", string(b.State)), attribute.String("from", b.From), attribute.Int64("bytes.received", b.Received),
	)}
	key := way{where{p.Principal, oci.Repo{Host: p.Upstream, Name: p.Repository}}, b.Digest, stamp(b.SendBegan), stamp(b.SendEnded)}
	other := s.seen(key)
	if other.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: other, Attributes: []attribute.KeyValue{attribute.String("why", "another push waited for the same")}}))
	}
	ctx, span := s.Tracer.Start(ctx, "blob", options...)
	defer span.End(trace.WithTimestamp(ended))
	if b.State == BlobFailed {
		span.SetStatus(codes.Error, b.Why)
	}
	for _, event := range []struct {
		name string
		when time.Time
	}{{"received", b.ReceiveEnded}, {"sent", b.SendEnded}} {
		if !event.when.IsZero() {
			span.AddEvent(event.name, trace.WithTimestamp(event.when))
		}
	}
	if other.IsValid() {
		return
	}
	s.remember(key, span.SpanContext())
	for _, step := range steps {
		s.step(ctx, p, step)
	}
}

// span is when a blob's part of its push began and ended.
func (b *Blob) span(steps []Step) (began, ended time.Time) {
	note := func(when time.Time) {
		switch {
		case when.IsZero():
		case began.IsZero():
			began, ended = when, when
		case when.Before(began):
			began = when
		case when.After(ended):
			ended = when
		}
	}
	for _, when := range []time.Time{b.ReceiveBegan, b.ReceiveEnded, b.SendBegan, b.SendEnded} {
		note(when)
	}
	for _, step := range steps {
		note(step.When)
		note(step.When.Add(time.Duration(step.Millis) * time.Millisecond))
	}
	return began, ended
}

// step makes the span of a request, or notes a decision where it was taken.
func (s *Spans) step(ctx context.Context, p Push, step Step) {
	if step.Op == "decide" {
		trace.SpanFromContext(ctx).AddEvent(step.Text, trace.WithTimestamp(step.When))
		return
	}
	_, span := s.Tracer.Start(ctx, step.Op, trace.WithTimestamp(step.When), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("push", p.ID), attribute.String("upstream", p.Upstream), attribute.String("said", step.Text), attribute.Int64("bytes.sent", step.Bytes),
	))
	if step.Code != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", step.Code))
	}
	if step.Code == 0 || step.Code >= 500 {
		span.SetStatus(codes.Error, step.Text)
	}
	span.End(trace.WithTimestamp(step.When.Add(time.Duration(step.Millis) * time.Millisecond)))
}

// seen returns the span that shows a blob's way already; none where it is not
// known to be shared.
func (s *Spans) seen(key way) trace.SpanContext {
	if key.digest == "" || key.began == 0 && key.ended == 0 {
		return trace.SpanContext{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shared[key].span
}

// remember notes the span that shows a blob's way.
func (s *Spans) remember(key way, span trace.SpanContext) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.shared == nil {
		s.shared = map[way]shownBy{}
	}
	if len(s.shared) >= mostShared {
		for k, by := range s.shared {
			if now.Sub(by.when) > sharedFor {
				delete(s.shared, k)
			}
		}
		if len(s.shared) >= mostShared {
			clear(s.shared)
		}
	}
	s.shared[key] = shownBy{span, now}
}

// stamp is a time that can be compared; 0: none.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
