package status

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Bytes returns a number of bytes as people write it, with three digits, in
// powers of 1000 as docker does. It never rounds up: what is all but complete
// does not read as complete.
func Bytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", max(n, 0))
	}
	unit, at := int64(1000), 0
	for n/unit >= 1000 && at < 4 {
		unit, at = unit*1000, at+1
	}
	name := [...]string{"kB", "MB", "GB", "TB", "PB"}[at]
	switch whole := n / unit; {
	case whole < 10:
		return fmt.Sprintf("%d.%02d %s", whole, n/(unit/100)%100, name)
	case whole < 100:
		return fmt.Sprintf("%d.%d %s", whole, n/(unit/10)%10, name)
	default:
		return fmt.Sprintf("%d %s", whole, name)
	}
}

// Span returns how long something took, cut to what one needs to know: 3.2 s,
// 2 min 5 s, 3 h 4 min.
func Span(d time.Duration) string {
	ms := max(d.Milliseconds(), 0)
	s := ms / 1000
	switch {
	case s < 1:
		return fmt.Sprintf("%d ms", ms)
	case s < 60 && ms%1000 < 100:
		return fmt.Sprintf("%d s", s)
	case s < 60:
		return fmt.Sprintf("%d.%d s", s, ms/100%10)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s/3600%24)
}

// seconds is Span without parts of a second, for what is still growing.
func seconds(d time.Duration) string { return Span(max(d.Truncate(time.Second), time.Second)) }

// left is a countdown: its last word is 1 s.
func left(d time.Duration) string { return seconds(d + time.Second - time.Nanosecond) }

// Clean makes text of others fit for one line of a terminal: what could steer
// the terminal, begin a line or turn the direction of writing is a question mark,
// and so is what is not UTF-8.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// Image is how people write what a push makes: registry.test/acme/app:v1.
func (p Push) Image() string { return image(p.Upstream, p.Repository, p.Tags, p.Digest) }

// Image is how people write what a job pushes.
func (j Job) Image() string {
	if strings.Contains(j.Reference, ":") {
		return image(j.Upstream, j.Repository, nil, j.Reference)
	}
	return image(j.Upstream, j.Repository, []string{j.Reference}, "")
}

func image(host, repository string, tags []string, digest string) string {
	name := host + "/" + repository
	switch {
	case len(tags) > 0:
		name += ":" + strings.Join(tags, ",")
	case digest != "":
		name += "@" + short(digest)
	}
	return Clean(name)
}

// Name is what docker calls a blob: the first twelve digits of its digest. While
// that is unknown it says so.
func (b Blob) Name() string {
	if b.Digest == "" {
		return "digest to be"
	}
	return short(b.Digest)
}

// short returns the first twelve digits of a digest.
func short(digest string) string {
	_, hex, found := strings.Cut(digest, ":")
	if !found {
		hex = digest
	}
	return Clean(hex[:min(len(hex), 12)])
}

// Says tells in docker's words what a blob is doing or how it ended.
func (b Blob) Says(now time.Time) string {
	switch b.State {
	case BlobReceiving:
		return "Receiving " + part(b.Received, b.Size)
	case BlobPushing:
		text := "Pushing " + part(b.Sent, b.Size)
		if b.ReceiveEnded.IsZero() && b.Received > 0 && b.Received < b.Size {
			text += ", received " + Bytes(b.Received)
		}
		return text
	case BlobRetrying:
		text := "Retrying"
		if wait := b.RetryAt.Sub(now); wait > 0 {
			text += " in " + left(wait)
		}
		if b.Why != "" {
			text += " because " + Clean(b.Why)
		}
		return text
	case BlobPushed:
		return "Pushed" + sized(b)
	case BlobExists:
		return string(BlobExists) + sized(b)
	case BlobMounted:
		return "Mounted from " + Clean(b.From) + sized(b)
	case BlobFailed:
		return "Failed" + reason(b.Why)
	}
	return Clean(string(b.State))
}

func sized(b Blob) string {
	if b.Size < 0 {
		return ""
	}
	return " (" + Bytes(b.Size) + ")"
}

func part(n, of int64) string {
	if of < 0 {
		return Bytes(n)
	}
	return Bytes(n) + " of " + Bytes(of)
}

func reason(why string) string {
	if why == "" {
		return ""
	}
	return ": " + Clean(why)
}

// Over reports whether nothing more happens to a push.
func (p Push) Over() bool {
	return p.State == Done || p.State == Unchanged || p.State == Failed || p.State == Stopped
}

// Says tells what a push is doing or how it ended.
func (p Push) Says(now time.Time) string {
	took := seconds(now.Sub(p.Started))
	if !p.Finished.IsZero() {
		took = Span(p.Finished.Sub(p.Started))
	}
	switch p.State {
	case Receiving:
		return "receiving for " + took
	case Pushing:
		return "pushing for " + took
	case Queued:
		return "queued for " + took + reason(p.Why)
	case Done:
		return "done in " + took + ": " + p.Sum.Says()
	case Unchanged:
		return "unchanged: the upstream had it already, seen in " + took
	case Failed:
		return "failed after " + took + reason(p.Why)
	case Stopped:
		return "stopped after " + took + reason(p.Why)
	}
	return Clean(string(p.State))
}

// Says tells what became of a push's blobs, and the time saved.
func (s Sum) Says() string {
	var parts []string
	add := func(n int, bytes int64, how string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", n, how, Bytes(bytes)))
		}
	}
	add(s.Uploaded, s.SentBytes, "uploaded")
	add(s.Mounted, s.MountedBytes, "mounted")
	add(s.Existed, s.ExistedBytes, "already there")
	text := strings.Join(parts, ", ")
	if text == "" {
		text = "no blobs"
	}
	if s.SavedMillis > 0 {
		text += "; about " + Span(time.Duration(s.SavedMillis)*time.Millisecond) + " saved"
	}
	return text
}
