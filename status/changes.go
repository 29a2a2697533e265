package status

import (
	"fmt"
	"slices"
	"time"
)

// PushChanges tells in one line each what is new about a push. The zero Push is
// one that was not known before.
func PushChanges(before, after Push, now time.Time) (lines []string) {
	image := after.Image()
	if before.ID == "" && !after.Over() {
		lines = append(lines, fmt.Sprintf("%s: push %s by %s", image, Clean(after.ID), after.sender()))
	}
	known := map[string]BlobState{}
	for _, b := range before.Blobs {
		known[b.key()] = b.State
	}
	for _, b := range after.Blobs {
		if known[b.key()] != b.State {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", image, b.Name(), b.Says(now)))
		}
	}
	if before.State != after.State {
		lines = append(lines, image+": "+after.Says(now))
	}
	return lines
}

// key tells the blobs of a push apart, also while a digest is unknown.
func (b Blob) key() string {
	if b.Upload != "" {
		return b.Upload
	}
	return b.Digest
}

// QueueChanges tells in one line each what is new in the queue.
func QueueChanges(before, after []Job, now time.Time) (lines []string) {
	known := map[string]Job{}
	for _, j := range before {
		known[j.ID] = j
	}
	for _, j := range after {
		old, found := known[j.ID]
		delete(known, j.ID)
		if found && old.State == j.State && old.Why == j.Why {
			continue
		}
		line := fmt.Sprintf("%s: job %s is %s", j.Image(), Clean(j.ID), Clean(j.State))
		if next := j.next(now); next != "" {
			line += ": " + next
		}
		lines = append(lines, line)
	}
	for _, j := range before {
		if _, gone := known[j.ID]; gone {
			lines = append(lines, fmt.Sprintf("%s: job %s left the queue", j.Image(), Clean(j.ID)))
		}
	}
	return lines
}

// UpstreamChanges tells in one line each what is new about an upstream. The zero
// Upstream is one that was not known before.
func UpstreamChanges(before, after Upstream, now time.Time) (lines []string) {
	say := func(format string, args ...any) {
		lines = append(lines, "upstream "+Clean(after.Host)+": "+fmt.Sprintf(format, args...))
	}
	switch {
	case before.Reachable == after.Reachable || before.Reachable == "" && after.Reachable != "no":
	case after.Reachable == "no":
		say("not reachable%s", reason(after.Why))
	case after.Reachable == "yes" && before.Reachable == "no":
		say("reachable again")
	}
	for _, l := range after.Limits {
		if !slices.Contains(before.Limits, l) {
			say("limit: %s", Clean(l))
		}
	}
	if after.Paused.After(before.Paused) && after.Paused.After(now) {
		say("paused for %s", left(after.Paused.Sub(now)))
	}
	return lines
}

// StoreChanges tells what is new about the store that a person should know.
func StoreChanges(before, after Store) (lines []string) {
	switch {
	case before.ReadOnly == after.ReadOnly:
	case after.ReadOnly != "":
		lines = append(lines, "store: read-only: "+Clean(after.ReadOnly))
	default:
		lines = append(lines, "store: takes pushes again")
	}
	return lines
}
