package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

const (
	defaultAttempts = 5
	firstDelay      = 500 * time.Millisecond
	longestDelay    = 30 * time.Second
	// longestAfter is the longest Retry-After that is waited out here; a
	// longer one is the caller's to schedule.
	longestAfter = 5 * time.Minute
	// offlineFor is how long a request is tried when no connection can be made,
	// and restartFor how long an upstream that was there may refuse connections
	// before that is such a case.
	offlineFor = 1500 * time.Millisecond
	restartFor = 30 * time.Second
)

// Retry tells that a request is about to be sent again.
type Retry struct {
	Repo    oci.Repo
	Digest  digest.Digest // of the blob; "" where it is not known, or it is not about one
	What    string        // what is being tried, such as "upload blob sha256:… to ghcr.io/acme/app"
	Why     string        // why the last attempt did not do
	Delay   time.Duration // how long it waits now
	Attempt int           // the attempt that failed, from 1
	Of      int           // attempts in all
	Busy    bool          // the upstream asks everyone to slow down (429)
}

// failure is why an attempt may be worth repeating.
type failure struct {
	why   string
	busy  bool          // the upstream asks everyone to slow down
	after time.Duration // its Retry-After; 0: none
	cause error         // of the transport, where there was no answer
}

// judge reports whether the same request may fare better later.
func judge(a *answer, err error) (failure, bool) {
	if err != nil {
		return failure{why: plain(err.Error()), cause: err}, !decided(err) && !untrusted(err)
	}
	switch a.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f := failure{why: "the upstream answered " + status(a.Status) + words(a.text)}
		f.after = retryAfter(a.Header.Get("Retry-After"), time.Now())
		f.busy = a.Status == http.StatusTooManyRequests
		return f, true
	}
	return failure{}, false
}

// errVerdict is the cause of errors that another attempt cannot change.
var errVerdict = errors.New("not tried again")

// decided reports whether err is a verdict, such as a refused credential or
// address, and not a transport that may work the next time.
func decided(err error) bool {
	if errors.Is(err, errVerdict) {
		return true
	}
	var e *oci.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Status/100 != 5 && e.Status != http.StatusTooManyRequests
}

// untrusted reports whether a server's certificate was refused. Another URL may
// do better; the same one will not.
func untrusted(err error) bool {
	var refused *tls.CertificateVerificationError
	return errors.As(err, &refused)
}

// tries counts the attempts at one thing.
type tries struct {
	c      *Client
	repo   oci.Repo
	digest digest.Digest
	what   string
	n      int
	delay  time.Duration
	last   string
	began  time.Time // of the attempt
	cut    time.Time // since when this machine is cut off from the upstream; zero: it is not
}

// begin begins an attempt.
func (t *tries) begin() { t.began = time.Now() }

func (t *tries) limit() int {
	if t.c.Attempts > 0 {
		return t.c.Attempts
	}
	return defaultAttempts
}

// more reports whether another attempt is due after f.
func (t *tries) more(f failure) bool {
	if isCutOff(f.cause) || t.c.quits() {
		return false
	}
	if !t.c.offline(f.cause) {
		t.cut = time.Time{}
		return t.n+1 < t.limit() && f.after <= longestAfter
	}
	if t.cut.IsZero() {
		t.cut = t.began
	}
	return t.left() > 0
}

// left is how much longer a machine that is cut off tries.
func (t *tries) left() time.Duration { return offlineFor - time.Since(t.cut) }

// offline reports whether no connection can be made at all: there is no network
// or no such name, or nobody listens and nobody did lately. A registry that
// restarts is back in a moment; what is cut off had better be said at once.
func (c *Client) offline(err error) bool {
	var dial *net.OpError
	var name *net.DNSError
	if errors.As(err, &name) {
		return !name.IsTimeout
	}
	if !errors.As(err, &dial) || dial.Op != "dial" || dial.Timeout() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !errors.Is(err, syscall.ECONNREFUSED) || time.Since(c.heard) > restartFor
}

// wait sleeps before the next attempt: decorrelated jitter, at least the
// upstream's Retry-After.
func (t *tries) wait(ctx context.Context, f failure) error {
	t.n++
	t.last = f.why
	if t.delay < firstDelay {
		t.delay = firstDelay
	}
	t.delay = min(longestDelay, firstDelay+rand.N(3*t.delay-firstDelay))
	delay := max(t.delay, f.after)
	if !t.cut.IsZero() {
		delay = max(0, min(delay, t.left()))
	}
	if f.busy {
		t.c.pauseFor(delay)
	}
	if t.c.Notify != nil {
		t.c.Notify(ctx, Retry{Repo: t.repo, Digest: t.digest, What: t.what, Why: f.why, Delay: delay, Attempt: t.n, Of: t.limit(), Busy: f.busy})
	}
	if err := t.c.pauseUntil(ctx, delay, f.cause); err != nil {
		return t.ended(ctx)
	}
	return nil
}

// ended is the error when ctx ended first, or the program; it names the last
// cause.
func (t *tries) ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil {
		cause = errQuit
	}
	if t.last == "" {
		return fmt.Errorf("%s: %w", t.what, cause)
	}
	return oci.ErrUpstream.With("%s: gave up on trying to %s after %d of %d attempts: %s; try again", t.c.Host, t.what, t.n, t.limit(), t.last).
		Because(cause)
}

// pauseFor holds every request of the client back for delay.
func (c *Client) pauseFor(delay time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(delay); until.After(c.paused) {
		c.paused = until
	}
}

// calm waits until the upstream wants requests again.
func (c *Client) calm(ctx context.Context) error {
	c.mu.Lock()
	until := c.paused
	c.mu.Unlock()
	return c.pause(ctx, time.Until(until))
}

// errQuit ends what waits when the program stops.
var errQuit error = oci.ErrUpstream.With("pushproxy is stopping and waits for no upstream any more: push again when it runs again")

func (c *Client) quits() bool {
	select {
	case <-c.Quit:
		return true
	default:
		return false
	}
}

// pause is sleep that Quit ends.
func (c *Client) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-c.Quit:
		return errQuit
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sleep returns after d, or with an error when ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryAfter reads a Retry-After header, seconds or a date (RFC 9110, 10.2.3);
// 0 when it is absent, past or unreadable.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
