package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"pushproxy/forward"
	"pushproxy/proxy"
)

const (
	hookTries  = 5
	hookFor    = 10 * time.Second
	hookQueued = 256
	// maxHookHeader is how much of an answer's header is read, in bytes. Its body
	// is not.
	maxHookHeader = 64 << 10
)

// herald tells the log and the webhook what becomes of queued pushes.
type herald struct {
	url    string
	log    *slog.Logger
	audit  *proxy.Audit // nil where nothing is recorded
	news   chan forward.Report
	client *http.Client
}

func newHerald(url string, audit *proxy.Audit, log *slog.Logger) *herald {
	return &herald{url: url, audit: audit, log: log, news: make(chan forward.Report, hookQueued), client: &http.Client{
		// The configuration says where news go, and nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxResponseHeaderBytes: maxHookHeader, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1},
	}}
}

// report is a Queue's Report.
func (h *herald) report(r forward.Report) {
	h.audit.Outcome(r)
	v := shownJob(r.Job)
	if r.Done {
		h.log.Info("queued push is done", "job", v.ID, "image", v.image(), "digest", v.Digest, "tries", v.Attempts+1)
	} else {
		h.log.Warn("queued push waits for you", "job", v.ID, "image", v.image(), "state", v.State, "reason", v.Error)
	}
	if h.url == "" {
		return
	}
	select {
	case h.news <- r:
	default:
		h.log.Warn("the webhook cannot keep up; it is not told of a job", "job", v.ID)
	}
}

// run delivers until ctx ends.
func (h *herald) run(ctx context.Context) {
	for {
		select {
		case r := <-h.news:
			if err := h.deliver(ctx, r); err != nil && ctx.Err() == nil {
				h.log.Warn("the webhook was not told of a job", "job", r.Job.ID, "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// hookEvent is what the webhook gets.
type hookEvent struct {
	Event string  `json:"event"` // done, or failed: somebody is needed
	Job   jobView `json:"job"`
}

func (h *herald) deliver(ctx context.Context, r forward.Report) error {
	event := hookEvent{Event: "failed", Job: shownJob(r.Job)}
	if r.Done {
		event.Event = "done"
	}
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	delay := 500 * time.Millisecond
	for try := 1; ; try++ {
		if err = h.post(ctx, body); err == nil || try == hookTries {
			return err
		}
		select {
		case <-time.After(delay):
			delay *= 2
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *herald) post(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, hookFor)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", userAgent())
	response, err := h.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", response.Status)
	}
	return nil
}
