package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"pushproxy/status"
)

// notConnected heads what is shown while no pushproxy answers.
const notConnected = "pushproxy does not answer; this was the case before:"

// Columns of a bar and what stands beside it; where a terminal is too narrow the
// bar goes first.
const (
	barMost   = 40 // cells
	barLeast  = 8
	besideBar = len("  0123456789ab: Receiving  []  ")
	shortText = len("99.9 MB of 99.9 MB")
	longText  = len("99.9 MB of 99.9 MB, received 99.9 MB")
)

// bar draws how much of total has gone (=) and how much more is here (-). It is
// full only when all has gone.
func bar(total, here, gone int64, cells int) string {
	if total <= 0 || cells <= 0 {
		return ""
	}
	share := func(n int64) int64 { return int64(float64(min(n, total)) / float64(total) * float64(cells)) }
	var b strings.Builder
	// A builder takes everything.
	_ = mpb.BarStyle().Refiller("=").Filler("-").Padding(" ").Tip("").Build().Fill(&b,
		decor.Statistics{AvailableWidth: cells + 2, Total: int64(cells), Current: max(share(here), share(gone)), Refill: share(gone)})
	return b.String()
}

// blobRow is one blob with its bar, where there is something to draw.
func blobRow(b status.Blob, now time.Time, width int) string {
	text := b.Says(now)
	if b.State != status.BlobPushing && b.State != status.BlobReceiving || b.Size <= 0 {
		return "  " + b.Name() + ": " + text
	}
	beside := longText
	if width < besideBar+longText+barLeast {
		beside = shortText
		text, _, _ = strings.Cut(text, ",")
	}
	word, rest, _ := strings.Cut(text, " ")
	drawn := ""
	if cells := min(width-besideBar-beside, barMost); cells >= barLeast {
		drawn = bar(b.Size, b.Received, b.Sent, cells) + "  "
	}
	return fmt.Sprintf("  %s: %-9s  %s%s", b.Name(), word, drawn, rest)
}

// row is one line of the live display. When there is not room for all, those
// with the highest rank go first.
type row struct {
	text string
	rank int
	word status.BlobState // of a blob
}

// rank says how much there is to see in a blob.
func rank(s status.BlobState) int {
	switch s {
	case status.BlobPushing, status.BlobReceiving, status.BlobRetrying, status.BlobFailed:
		return 1
	case status.BlobWaiting, status.BlobPreparing:
		return 2
	}
	return 3
}

// rows is the board as a terminal of a size can show it: a line for all, a line
// per push, a line per blob.
func (b *board) rows(now time.Time, width, height int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var rate int64
	for _, u := range b.now.Upstreams {
		rate += u.Rate
	}
	head := fmt.Sprintf("pushproxy %s: %d in flight, %d queued, %s/s upstream", printable(b.now.Pushproxy), len(b.now.Pushes), len(b.now.Queue), status.Bytes(rate))
	if b.lost {
		head = notConnected
	}
	all := []row{{text: head}}
	for _, p := range b.now.Pushes {
		all = append(all, row{text: p.Image() + ": " + p.Says(now)})
		all = append(all, blobRows(p, now, width)...)
	}
	return fit(all, height)
}

func blobRows(p status.Push, now time.Time, width int) (rows []row) {
	for _, b := range p.Blobs {
		rows = append(rows, row{blobRow(b, now, width), rank(b.State), b.State})
	}
	return rows
}

// fit leaves out the rows with the highest ranks, and says of what they were.
func fit(all []row, height int) (lines []string) {
	hidden := map[status.BlobState]int{}
	left := len(all)
	for rank := 3; rank >= 0 && left > height; rank-- {
		for i := len(all) - 1; i > 0 && left > height-1; i-- {
			if all[i].rank == rank && all[i].text != "" {
				hidden[all[i].word]++
				all[i].text = ""
				left--
			}
		}
	}
	for _, r := range all {
		if r.text != "" {
			lines = append(lines, r.text)
		}
	}
	if len(hidden) == 0 || len(lines) >= height {
		return lines
	}
	var parts []string
	for state, n := range hidden {
		word := string(state)
		if word == "" {
			word = "pushes"
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, printable(word)))
	}
	slices.Sort(parts)
	return append(lines, "  and more: "+strings.Join(parts, ", "))
}
