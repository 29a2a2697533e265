package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Text writes the report for a terminal.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	b.WriteByte('\n')
	rows := [][]string{head}
	for _, row := range r.Rows {
		rows = append(rows, row.cells())
	}
	widths := make([]int, len(head))
	for _, cells := range rows {
		for i, c := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, cells := range rows {
		var line strings.Builder
		for i, c := range cells {
			line.WriteString(c + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	for _, s := range r.Remarks {
		b.WriteString("\n" + s + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const introduction = `# Benchmarks

The newest run of ` + "`make bench`" + `. Every row is measured interleaved, first against the other way and then through
pushproxy, in turns, with new random bytes, a fresh registry and a fresh pushproxy for every turn. The line is a relay with
delay, a rate that all connections share, handshakes and slow start (tests/bench/link). Trust the ratios: they were taken
side by side. Absolute times belong to the machine and to what else it did.

The registry is distribution as its example configuration runs it, without a password and over plain HTTP: TLS and tokens
would cost direct pushes more. docker, skopeo and crane try TLS first with a name of localhost. The registry refuses it, and
pushproxy speaks it: docker and skopeo take it, so their way to pushproxy is encrypted and the direct way is not. crane does not
trust the certificate, as long as no set-up made it do so, and goes on in the clear.

`

const legend = `
**against** and **pushproxy**: median [least–most] of the rounds. **ratio**: of the medians, with the extremes of the rounds'
own ratios. **A** must hold, **B** is what we are after (issue 3). **requests** and **MB sent**: what the upstream saw, of
1,000,000 bytes. **CPU-s/GiB** and **anon MiB**: processor time and peak anonymous memory of pushproxy, or of the registry
that it is held against. "– → 9" was not measured on one side.
`

// writtenFrom is the heading from which on people, not this program, write the document.
const writtenFrom = "\n## Where a target is missed\n"

// Written returns the part of an earlier document that people wrote, "" where there is none.
func Written(document string) string {
	if at := strings.Index(document, writtenFrom); at >= 0 {
		return document[at:]
	}
	return ""
}

// Markdown writes the report as a document.
func (r Report) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(introduction)
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", f.Name, f.Value)
	}
	if r.Plot != "" {
		fmt.Fprintf(&b, "\n![How many times faster than the other way, per row](%s)\n", r.Plot)
	}
	b.WriteString("\n| " + strings.Join(head, " | ") + " |\n" + strings.Repeat("|---", len(head)) + "|\n")
	for _, row := range r.Rows {
		cells := row.cells()
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", `\|`)
		}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	b.WriteString(legend)
	if len(r.Remarks) > 0 {
		b.WriteString("\n## Doubts, what was left out, what failed\n\n")
	}
	for _, s := range r.Remarks {
		b.WriteString("- " + strings.ReplaceAll(s, "\n", " ") + "\n")
	}
	b.WriteString(r.Written)
	_, err := io.WriteString(w, b.String())
	return err
}
