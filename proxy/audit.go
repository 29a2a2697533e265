package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"pushproxy/forward"
	"pushproxy/oci"
)

const (
	// auditedBlobs is how many blobs of a push its line lists.
	auditedBlobs = 1000
	// refusalsPerSecond bounds the lines that callers without a login can cause:
	// else they could push everything else out of the log.
	refusalsPerSecond = 10
)

// Audit is the record of who did what with whose credential: one JSON object a
// line, for every push, every deletion and every refusal. Text of clients is
// quoted, so no client can write a line or a field. A nil Audit records nothing.
type Audit struct {
	log *slog.Logger

	mu         sync.Mutex
	second     time.Time
	refusals   int
	suppressed int
}

// NewAudit returns an Audit that writes its lines to the handler.
func NewAudit(h slog.Handler) *Audit { return &Audit{log: slog.New(h)} }

// who are the fields that every line has.
func who(caller Caller, r *http.Request) []any {
	return []any{
		"principal", caller.Principal, "token", caller.Token, "user", clip(caller.User),
		"remote", clip(r.RemoteAddr), "method", clip(r.Method), "path", clip(r.URL.Path), "agent", clip(r.UserAgent()),
	}
}

// credential names the account that the upstream is asked with: its user name
// and where it was found, never a secret.
func (c *call) credential(ctx context.Context) string {
	if c.target == nil || c.target.Client.Describe == nil {
		return ""
	}
	return clip(c.target.Client.Describe(ctx, c.repo))
}

// push records a manifest that the upstream now holds, and how each of its blobs
// came there.
func (a *Audit) push(c *call, job forward.Job, result forward.Result) {
	if a == nil {
		return
	}
	a.log.Info("push", append(who(c.caller, c.r), "push", result.Push, "repository", job.Repo.String(), "reference", job.Reference(), "tags", job.Tags, "digest", job.Digest.String(),
		"unchanged", result.Unchanged, "credential", c.credential(c.lasting()), "blobs", landings(result), "more_blobs", max(0, len(result.Blobs)-auditedBlobs))...)
}

// landed says of one blob how it came to the upstream.
type landed struct {
	Digest string `json:"digest"`
	How    string `json:"how"`
	From   string `json:"from,omitempty"`
	Size   int64  `json:"size"`
}

func landings(result forward.Result) []landed {
	blobs := []landed{}
	for _, o := range result.Blobs[:min(len(result.Blobs), auditedBlobs)] {
		blobs = append(blobs, landed{o.Digest.String(), string(o.How), o.From, o.Size})
	}
	return blobs
}

// queued records a manifest that is safe in the queue and not upstream yet.
func (a *Audit) queued(c *call, job forward.Job, id, push string) {
	if a != nil {
		a.log.Info("queued", append(who(c.caller, c.r), "push", push, "repository", job.Repo.String(), "reference", job.Reference(), "tags", job.Tags,
			"digest", job.Digest.String(), "job", id, "credential", c.credential(c.lasting()))...)
	}
}

// Outcome records what became of a queued push: that the upstream holds it now,
// and how each of its blobs came there, or that it waits for a person. Whoever
// queued it has no request any more; the line of that names the same job.
func (a *Audit) Outcome(r forward.Report) {
	if a == nil {
		return
	}
	j := r.Job
	fields := []any{
		"principal", j.Principal, "job", j.ID, "push", j.Push, "repository", j.Repo.String(), "tags", j.Tags, "digest", j.Digest.String(), "queued", j.Created,
		"credential", clip(r.Credential), "accepted_with", clip(j.Credential),
	}
	if r.Done {
		a.log.Info("sent", append(fields, "attempts", j.Attempts+1, "unchanged", r.Result.Unchanged, "blobs", landings(r.Result), "more_blobs", max(0, len(r.Result.Blobs)-auditedBlobs))...)
		return
	}
	a.log.Warn("not sent", append(fields, "attempts", j.Attempts, "state", j.State, "reason", clip(j.Error))...)
}

// deletion records what the upstream has deleted.
func (a *Audit) deletion(c *call) {
	if a != nil {
		a.log.Info("delete", append(who(c.caller, c.r), "repository", c.repo.String(), "reference", c.Reference(), "credential", c.credential(c.lasting()))...)
	}
}

// refusal records a request that was refused for who sent it, or from where, by
// us or by the upstream.
func (a *Audit) refusal(caller Caller, r *http.Request, err error) {
	e := oci.AsError(err)
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest, http.StatusTooManyRequests, http.StatusLoopDetected:
	default:
		return
	}
	if a == nil {
		return
	}
	suppressed, say := a.turn(caller)
	if !say {
		return
	}
	fields := append(who(caller, r), "status", e.Status, "code", e.Code, "reason", clip(e.Message))
	if suppressed > 0 {
		fields = append(fields, "suppressed_before", suppressed)
	}
	a.log.Warn("denied", fields...)
}

// turn says whether a refusal is written, and how many before it were not.
func (a *Audit) turn(caller Caller) (suppressed int, say bool) {
	if caller.Principal != "" {
		return 0, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.second) >= time.Second {
		a.second, a.refusals = now, 0
	}
	if a.refusals++; a.refusals > refusalsPerSecond {
		a.suppressed++
		return 0, false
	}
	suppressed, a.suppressed = a.suppressed, 0
	return suppressed, true
}
