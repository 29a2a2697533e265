package status

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report gathers text and tables; its errors are those of the writer at the end.
type report struct{ bytes.Buffer }

func (r *report) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// table writes rows in columns under their heads, which may be nil; every row is
// indented.
func (r *report) table(heads []string, rows [][]string) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{heads}, rows...) {
		if row != nil {
			fmt.Fprintln(w, "  "+strings.Join(row, "\t"))
		}
	}
	// A buffer takes everything.
	_ = w.Flush()
	for line := range strings.Lines(b.String()) {
		r.line("%s", strings.TrimRight(line, " \n"))
	}
}

// WriteSnapshot writes everything at a glance. Times are in the zone of s.Now.
func WriteSnapshot(w io.Writer, s Snapshot) error {
	var r report
	r.line("pushproxy %s, running for %s", Clean(s.Pushproxy), seconds(s.Now.Sub(s.Started)))
	r.line("\npushes in flight: %d", len(s.Pushes))
	for _, p := range s.Pushes {
		r.line("  %s  %s  (push %s)", p.Image(), p.Says(s.Now), Clean(p.ID))
		var rows [][]string
		for _, b := range p.Blobs {
			rows = append(rows, []string{"  " + b.Name(), b.Says(s.Now)})
		}
		r.table(nil, rows)
	}
	r.queue(s.Now, s.Queue)
	r.finished(s.Now, s.Finished)
	r.line("\nupstreams: %d", len(s.Upstreams))
	r.upstreams(s.Now, s.Upstreams)
	r.line("\nstore: %s", s.Store.Says(s.Now))
	_, err := r.WriteTo(w)
	return err
}

func (r *report) queue(now time.Time, jobs []Job) {
	r.line("\nqueue: %d", len(jobs))
	if len(jobs) == 0 {
		return
	}
	var rows [][]string
	for _, j := range jobs {
		rows = append(rows, []string{Clean(j.ID), Clean(j.State), seconds(now.Sub(j.Since)), fmt.Sprint(j.Tries), Bytes(j.Bytes), j.Image(), j.next(now)})
	}
	r.table([]string{"JOB", "STATE", "AGE", "TRIES", "SIZE", "IMAGE", "REASON"}, rows)
}

// next tells why a job is still there and when it is tried again.
func (j Job) next(now time.Time) string {
	text := Clean(j.Why)
	if wait := j.NextTry.Sub(now); wait > 0 {
		text = strings.TrimPrefix(text+"; tried again in "+left(wait), "; ")
	}
	return text
}

func (r *report) finished(now time.Time, pushes []Push) {
	r.line("\nlast finished: %d", len(pushes))
	if len(pushes) == 0 {
		return
	}
	var rows [][]string
	for _, p := range pushes {
		rows = append(rows, []string{Clean(p.ID), clock(p.Finished, now), p.Image(), p.Says(now)})
	}
	r.table([]string{"PUSH", "AT", "IMAGE", "OUTCOME"}, rows)
}

// clock writes a time of today without the day.
func clock(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// WriteUpstreams writes a table of upstreams, and below each what was met there.
// Times are in the zone of now.
func WriteUpstreams(w io.Writer, now time.Time, all []Upstream) error {
	var r report
	r.upstreams(now, all)
	_, err := r.WriteTo(w)
	return err
}

func (r *report) upstreams(now time.Time, all []Upstream) {
	if len(all) == 0 {
		return
	}
	rows := [][]string{{"UPSTREAM", "REACHABLE", "RATE", "UPLOADING", "WAITING", "REQUESTS", "FAILURES", "CREDENTIAL"}}
	for _, u := range all {
		rows = append(rows, []string{
			Clean(u.Host), Clean(u.Reachable), Bytes(u.Rate) + "/s", fmt.Sprint(u.Uploading), fmt.Sprint(u.Waiting),
			fmt.Sprint(u.Requests), fmt.Sprint(u.Failures), u.credential(now),
		})
	}
	var table report
	table.table(nil, rows)
	for i, line := range slices.Collect(strings.Lines(table.String())) {
		r.WriteString(line)
		if i > 0 {
			for _, note := range all[i-1].notes(now) {
				r.line("    %s", note)
			}
		}
	}
}

func (u Upstream) credential(now time.Time) string {
	text := Clean(u.Credential)
	if text != "" && !u.Expires.IsZero() {
		text += ", token until " + clock(u.Expires, now)
	}
	return text
}

// notes tells what a table has no room for.
func (u Upstream) notes(now time.Time) (out []string) {
	if u.Why != "" {
		text := Clean(u.Why)
		if !u.Since.IsZero() {
			text = "since " + clock(u.Since, now) + ": " + text
		}
		out = append(out, text)
	}
	if wait := u.Paused.Sub(now); wait > 0 {
		out = append(out, "paused for "+left(wait))
	}
	for _, l := range u.Limits {
		out = append(out, "limit: "+Clean(l))
	}
	for _, q := range u.Quirks {
		out = append(out, "quirk: "+Clean(q))
	}
	return out
}

// Says tells what the store holds, in one line.
func (s Store) Says(now time.Time) string {
	text := fmt.Sprintf("%s in %d blobs, %s on disk, ", Bytes(s.LiveBytes), s.Blobs, Bytes(s.DiskBytes))
	if s.Quota > 0 {
		text += "quota " + Bytes(s.Quota) + ", "
	}
	text += Bytes(s.FreeBytes) + " free"
	if !s.Oldest.IsZero() {
		text += ", oldest used " + seconds(now.Sub(s.Oldest)) + " ago"
	}
	if s.ReadOnly != "" {
		text += "; read-only: " + Clean(s.ReadOnly)
	}
	return text
}
