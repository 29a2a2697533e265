package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"pushproxy/oci"
	"pushproxy/upstream"
)

// finding is what one check came to.
type finding struct {
	Subject string `json:"subject"` // "this machine", a registry or a repository
	Check   string `json:"check"`
	Status  string `json:"status"` // ok, failed or skipped
	Text    string `json:"text"`   // what was found, or what is wrong and what to do
}

// errSkipped is the outcome of a check that does not apply; wrap it to say why.
var errSkipped = errors.New("not checked")

// report runs checks, prints what they come to and keeps it.
type report struct {
	out      io.Writer
	quiet    bool
	findings []finding
	failed   bool
}

// all runs checks that do not depend on each other.
func (r *report) all(ctx context.Context, subject string, checks []check) {
	r.head(subject)
	for _, c := range checks {
		r.run(ctx, subject, c)
	}
}

// chain runs checks that build on each other: the first that fails makes the
// others meaningless.
func (r *report) chain(ctx context.Context, subject string, checks []check) {
	r.head(subject)
	for i, c := range checks {
		if r.run(ctx, subject, c) {
			continue
		}
		for _, later := range checks[i+1:] {
			r.findings = append(r.findings, finding{subject, later.name, "skipped", c.name + " failed"})
		}
		return
	}
}

func (r *report) head(subject string) {
	if !r.quiet {
		fmt.Fprintln(r.out, subject)
	}
}

func (r *report) run(ctx context.Context, subject string, c check) (fine bool) {
	ctx, cancel := context.WithTimeout(ctx, doctorFor)
	defer cancel()
	text, err := c.run(ctx)
	f := finding{subject, c.name, "ok", text}
	switch {
	case errors.Is(err, errSkipped):
		f.Status, f.Text = "skipped", err.Error()
	case err != nil:
		f.Status, f.Text = "failed", err.Error()
		if e := (*oci.Error)(nil); errors.As(err, &e) && upstream.Unreachable(err) {
			f.Text = e.Message // which says why itself
		}
		r.failed = true
	}
	r.findings = append(r.findings, f)
	if !r.quiet {
		word := map[string]string{"ok": "ok  ", "failed": "FAIL", "skipped": "-   "}[f.Status]
		fmt.Fprintf(r.out, "  %s %-16s %s\n", word, f.Check, f.Text)
	}
	return f.Status != "failed"
}

func (r *report) json() error {
	e := json.NewEncoder(r.out)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"healthy": !r.failed, "checks": r.findings})
}
