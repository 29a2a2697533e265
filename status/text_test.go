package status

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestBytesAreWrittenInThreeDigits(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 1239: "1.23 kB", 999_999: "999 kB", 41_000_000: "41.0 MB", 12_399_999: "12.3 MB",
		1 << 40: "1.09 TB", 1 << 62: "4611 PB", -1: "0 B",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d bytes are written %q, want %q", n, got, want)
		}
	}
}

func TestDurationsAreWrittenInWords(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 23 * time.Millisecond: "23 ms", 3290 * time.Millisecond: "3.2 s", 59*time.Second + 999*time.Millisecond: "59.9 s",
		125 * time.Second: "2 min 5 s", 2 * time.Minute: "2 min 0 s", 2 * time.Second: "2 s", 184 * time.Minute: "3 h 4 min", 25 * time.Hour: "1 d 1 h", 72 * time.Hour: "3 d 0 h",
	} {
		if got := Span(d); got != want {
			t.Errorf("%s is written %q, want %q", d, got, want)
		}
	}
}

// hostile is what names and error texts may hold that would steer a terminal: sequences with escape, their one-byte
// forms, new lines, turned writing, bytes that are no text.
const hostile = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u009b32m\r\nb\tc\u202egnp.exe\u2066\u200b\x00\x7f\xff"

func TestTextOfOthersCannotSteerATerminal(t *testing.T) {
	t.Parallel()
	if got, want := Clean(hostile), "a?]0;owned??[2J?31m?32m  b c?gnp.exe?????"; got != want {
		t.Errorf("cleaned: %q, want %q", got, want)
	}
	if got := Clean("größer, 大きい"); got != "größer, 大きい" {
		t.Errorf("words became %q", got)
	}
	now := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	blob := func(s BlobState) Blob {
		return Blob{Digest: "sha256:" + hostile, Upload: hostile, MediaType: hostile, State: s, From: hostile, Why: hostile}
	}
	push := Push{ID: hostile, Principal: hostile, Agent: hostile, Upstream: hostile, Repository: hostile, Tags: []string{hostile}, Digest: hostile, Job: hostile,
		Why: hostile, Credential: hostile, Blobs: []Blob{blob(BlobRetrying), blob(BlobFailed), blob(BlobMounted), blob(hostile)},
		Steps: []Step{{Op: hostile, Text: hostile}, {Blob: hostile, Text: hostile}}}
	all := Snapshot{Pushproxy: hostile, Instance: hostile, Now: now, Started: now, Store: Store{ReadOnly: hostile},
		Queue:     []Job{{ID: hostile, Upstream: hostile, Repository: hostile, Reference: hostile, State: hostile, Why: hostile}},
		Upstreams: []Upstream{{Host: hostile, Reachable: hostile, Why: hostile, Credential: hostile, Limits: []string{hostile}, Quirks: []string{hostile}}}}
	var b bytes.Buffer
	for _, s := range []State{Receiving, Queued, Done, Failed, Stopped, hostile} {
		push.State = s
		all.Pushes, all.Finished = []Push{push}, []Push{push}
		if err := WriteSnapshot(&b, all); err != nil {
			t.Fatal(err)
		}
		if err := WriteExplanation(&b, now, push); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteUpstreams(&b, now, all.Upstreams); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q reaches the terminal", line)
		}
		if strings.HasPrefix(line, "b ") {
			t.Errorf("text of others begins a line: %q", line)
		}
	}
}

// shown is one of everything, at a moment that does not move.
func shown() Snapshot {
	now := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	blobs := []Blob{
		{Digest: digest("1"), Size: 41_000_000, State: BlobPushing, Received: 30_100_000, Sent: 12_300_000, ReceiveBegan: ago(12 * time.Second), SendBegan: ago(11 * time.Second)},
		{Upload: "u2", Size: -1, State: BlobReceiving, Received: 5_400_000, ReceiveBegan: ago(3 * time.Second)},
		{Digest: digest("3"), Size: 120_000_000, State: BlobExists, SendEnded: ago(11 * time.Second)},
		{Digest: digest("4"), Size: 30_000_000, State: BlobMounted, From: "acme/base", SendEnded: ago(10 * time.Second)},
		{Digest: digest("5"), Size: 2_000_000, State: BlobRetrying, RetryAt: now.Add(4 * time.Second), Why: "registry.test answered 503 Service Unavailable", Received: 2_000_000},
		{Digest: digest("6"), Size: 1_500, State: BlobPushed, Received: 1_500, Sent: 1_500, ReceiveBegan: ago(12 * time.Second), ReceiveEnded: ago(12 * time.Second), SendBegan: ago(11 * time.Second), SendEnded: ago(10 * time.Second)},
		{Digest: digest("7"), Size: 900, State: BlobWaiting},
		{Digest: digest("8"), Size: 700, State: BlobFailed, Why: "registry.test refused it: 403 DENIED"},
	}
	push := Push{ID: "p7", Principal: "local", Agent: "docker/29.0.1", Upstream: "registry.test", Repository: "acme/app", Tags: []string{"v1", "latest"}, State: Pushing, Started: ago(12 * time.Second), Blobs: blobs}
	done := Push{ID: "p6", Principal: "ci", Agent: "skopeo/1.20", Upstream: "registry.test", Repository: "acme/app", Tags: []string{"v0"}, Digest: digest("d"), State: Done, Started: ago(time.Hour), Finished: ago(time.Hour - 3900*time.Millisecond),
		Credential: "docker config, user alice", Blobs: []Blob{
			{Digest: digest("1"), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Size: 41_000_000, State: BlobPushed, Received: 41_000_000, Sent: 41_000_000, Again: 1,
				ReceiveBegan: ago(time.Hour - 100*time.Millisecond), ReceiveEnded: ago(time.Hour - 500*time.Millisecond), SendBegan: ago(time.Hour - 300*time.Millisecond), SendEnded: ago(time.Hour - 3500*time.Millisecond)},
			{Digest: digest("4"), Size: 30_000_000, State: BlobMounted, From: "acme/base"},
		},
		Sum: Sum{Existed: 2, Mounted: 1, Uploaded: 1, ExistedBytes: 120_000_000, MountedBytes: 30_000_000, SentBytes: 41_000_000, Requests: 7, SavedMillis: 11_700},
		Steps: []Step{
			{When: ago(time.Hour - 200*time.Millisecond), Blob: digest("1"), Op: "head", Text: "HEAD said 404", Code: 404},
			{When: ago(time.Hour - 250*time.Millisecond), Blob: digest("1"), Op: "mount", Text: "mount from acme/base refused with 202", Code: 202},
			{When: ago(time.Hour - 3500*time.Millisecond), Blob: digest("1"), Op: "upload", Text: "uploaded 41 MB in 3.2 s at 12.8 MB/s", Code: 201, Bytes: 41_000_000, Millis: 3200},
			{When: ago(time.Hour - 260*time.Millisecond), Blob: digest("4"), Op: "mount", Text: "mounted from acme/base", Code: 201},
			{When: ago(time.Hour - 150*time.Millisecond), Op: "token", Text: "token refreshed", Code: 200},
			{When: ago(time.Hour - 3900*time.Millisecond), Op: "manifest", Text: "manifest put under v0", Code: 201},
		}}
	return Snapshot{
		Version: 1, Pushproxy: "v1.2.3", Instance: "i1", Started: ago(184 * time.Minute), Now: now, Event: "i1-42",
		Pushes: []Push{push},
		Finished: []Push{done,
			{ID: "p5", Upstream: "registry.test", Repository: "acme/app", Tags: []string{"v0"}, State: Unchanged, Started: ago(2 * time.Hour), Finished: ago(2*time.Hour - 90*time.Millisecond)},
			{ID: "p4", Upstream: "other.test", Repository: "acme/lib", Digest: digest("e"), State: Failed, Why: "other.test refused acme/lib: log in with docker login other.test", Started: ago(26 * time.Hour), Finished: ago(26*time.Hour - time.Second)},
			{ID: "p3", Upstream: "other.test", Repository: "acme/lib", State: Stopped, Why: "the client left before its manifest", Started: ago(27 * time.Hour), Finished: ago(27*time.Hour - 2*time.Second)}},
		Queue: []Job{
			{ID: "j1", Principal: "local", Upstream: "registry.test", Repository: "queued/app", Reference: "v3", State: "waiting", Tries: 2, Since: ago(5 * time.Minute), NextTry: now.Add(30 * time.Second), Why: "registry.test is not reachable", Bytes: 73_000_000},
			{ID: "j2", Principal: "local", Upstream: "registry.test", Repository: "queued/app", Reference: digest("f"), State: "sending", Since: ago(time.Second), Bytes: 1_000},
		},
		Upstreams: []Upstream{
			{Host: "registry.test", Reachable: "yes", Credential: "docker config, user alice", Expires: now.Add(5 * time.Minute), Uploading: 2, Waiting: 3, Rate: 12_800_000, Requests: 412, Failures: 3,
				Limits: []string{"429 at 14:02, one upload at a time until 14:05"}, Quirks: []string{"takes no chunks"}, Paused: now.Add(8 * time.Second)},
			{Host: "other.test", Reachable: "no", Since: ago(2 * time.Minute), Why: "dial tcp 192.0.2.1:443: connection refused", Requests: 7, Failures: 7},
		},
		Store: Store{LiveBytes: 12_300_000_000, DiskBytes: 14_100_000_000, Quota: 50_000_000_000, FreeBytes: 210_000_000_000, Blobs: 532, Oldest: ago(72 * time.Hour)},
	}
}

func TestReportsReadAsTheyAlwaysDid(t *testing.T) {
	t.Parallel()
	s := shown()
	empty := Snapshot{Pushproxy: "v1.2.3", Started: s.Started, Now: s.Now, Store: Store{ReadOnly: "the disk is full: free space on it"}}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"snapshot":       func(b *bytes.Buffer) error { return WriteSnapshot(b, s) },
		"snapshot-empty": func(b *bytes.Buffer) error { return WriteSnapshot(b, empty) },
		"upstreams":      func(b *bytes.Buffer) error { return WriteUpstreams(b, s.Now, s.Upstreams) },
		"push-done":      func(b *bytes.Buffer) error { return WriteExplanation(b, s.Now, s.Finished[0]) },
		"push-in-flight": func(b *bytes.Buffer) error { return WriteExplanation(b, s.Now, s.Pushes[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.Bytes())
		})
	}
}
