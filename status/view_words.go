package status

import (
	"fmt"
	"strings"
	"time"
)

// The words of this file, and those of text.go that it uses, have a twin in
// assets/words.js, which a test in a browser holds to the same text.

// kindWords says what a blob is by its media type.
func kindWords(mediaType string) string {
	for _, kind := range [...]struct{ part, word string }{
		{"image.index", "index"}, {"manifest.list", "index"}, {"manifest", "manifest"}, {"config", "config"}, {"container.image.v1", "config"},
		{"layer", "layer"}, {"rootfs.diff", "layer"},
	} {
		if strings.Contains(mediaType, kind.part) {
			return kind.word
		}
	}
	return "blob"
}

// detailWords says of a blob what docker's word for its state leaves open.
func detailWords(b Blob, now time.Time) string {
	switch b.State {
	case BlobExists:
		return sizeWords(b)
	case BlobMounted:
		return joinWords(b.From, sizeWords(b))
	case BlobPushed:
		if took := between(b.SendBegan, b.SendEnded); !b.SendBegan.IsZero() && took > 0 {
			return joinWords(sizeWords(b)+" in "+Span(took), rateWords(b.Size, took), againWords(b))
		}
		return joinWords(sizeWords(b), againWords(b))
	case BlobFailed:
		return b.Why
	case BlobRetrying:
		return joinWords(retryWords(b, now), movedWords(b))
	}
	return joinWords(movedWords(b), againWords(b))
}

// movedWords says how much has come and how much has gone.
func movedWords(b Blob) string {
	var parts []string
	switch {
	case b.Received > 0 && b.Received == b.Size:
		parts = append(parts, "received "+Bytes(b.Received))
	case b.Received > 0 || b.State == BlobReceiving:
		parts = append(parts, "received "+part(b.Received, b.Size))
	}
	if b.Sent > 0 || b.State == BlobPushing {
		parts = append(parts, "upstream "+part(b.Sent, b.Size))
	}
	return joinWords(parts...)
}

func retryWords(b Blob, now time.Time) string {
	words := "now"
	if wait := between(now, b.RetryAt); wait > 0 {
		words = "in " + left(wait)
	}
	if b.Why != "" {
		words += " because " + b.Why
	}
	return words
}

func againWords(b Blob) string {
	switch {
	case b.Again <= 0:
		return ""
	case b.Again == 1:
		return "sent again"
	}
	return fmt.Sprintf("sent again %d times", b.Again)
}

func sizeWords(b Blob) string {
	if b.Size < 0 {
		return ""
	}
	return Bytes(b.Size)
}

func rateWords(n int64, took time.Duration) string {
	if n <= 0 || took < 10*time.Millisecond {
		return ""
	}
	return "at " + Bytes(int64(float64(n)/took.Seconds())) + "/s"
}

// countWords says how many blobs of how many bytes.
func countWords(n int, size int64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("%d · %s", n, Bytes(size))
}

func joinWords(parts ...string) string {
	var said []string
	for _, p := range parts {
		if p != "" {
			said = append(said, p)
		}
	}
	return strings.Join(said, " · ")
}

// between is how long it is from a to b in whole milliseconds of both, which is
// what the JSON's readers in JavaScript see of them.
func between(a, b time.Time) time.Duration {
	return time.Duration(b.UnixMilli()-a.UnixMilli()) * time.Millisecond
}
