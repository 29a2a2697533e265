package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

func applySetup(out io.Writer, j *journal, made plan, p *place) error {
	steps, err := j.apply(made, p.client, p.root)
	if err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Fprintf(out, "%s %s (%s)\n", s.verb(), s.at, s.why)
	}
	printNotes(out, made)
	fmt.Fprintf(out, "Undo it with: pushproxy setup %s --undo\n", p.client)
	return nil
}

// verb is what was done for a step.
func (s step) verb() string {
	if s.done() {
		return "kept"
	}
	return "wrote"
}

func undoSetup(out io.Writer, j *journal, client string) error {
	undone, err := j.undo(client)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w\nroot made this set-up, and root undoes it, with your own home: sudo env HOME=\"$HOME\" \"$(command -v pushproxy)\" setup %s --undo", err, client)
	}
	if err != nil {
		return err
	}
	if len(undone) == 0 {
		fmt.Fprintf(out, "Nothing was set up for %s.\n", client)
	}
	for _, path := range undone {
		verb := "restored"
		if !exists(path) {
			verb = "removed"
		}
		fmt.Fprintln(out, verb, path)
	}
	return nil
}

func checkSetup(out io.Writer, j *journal, made plan, p *place) error {
	missing, err := j.missing(made, p)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		fmt.Fprintf(out, "%s is set up.\n", p.client)
		return nil
	}
	for _, m := range missing {
		fmt.Fprintln(out, m)
	}
	fmt.Fprintf(out, "Mend it with: pushproxy setup %s --apply\n", p.client)
	return errReported
}

// missing lists what of a plan is not there.
func (j *journal) missing(made plan, p *place) (list []string, err error) {
	if p.roots == "" {
		list = append(list, "missing: the CA, which is made by the first `pushproxy serve` or `pushproxy setup CLIENT --apply`")
	}
	steps, err := j.steps(made, p.client, p.root)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		switch {
		case s.done():
		case s.now.exists:
			list = append(list, fmt.Sprintf("differs: %s (%s)", s.at, s.why))
		default:
			list = append(list, fmt.Sprintf("missing: %s (%s)", s.at, s.why))
		}
	}
	return list, nil
}

func printSetup(out io.Writer, j *journal, made plan, p *place) error {
	steps, err := j.steps(made, p.client, p.root)
	if err != nil {
		return err
	}
	for _, s := range steps {
		what := "would write"
		switch {
		case s.done():
			what = "is there already:"
		case s.now.exists:
			what = "would change"
		}
		fmt.Fprintf(out, "%s %s\n  why: %s\n", what, s.at, s.why)
		if s.done() {
			continue
		}
		for line := range strings.Lines(p.brief(string(s.next))) {
			fmt.Fprint(out, "  | "+line)
		}
	}
	printNotes(out, made)
	if len(steps) > 0 {
		fmt.Fprintf(out, "Do it with: pushproxy setup %s --apply\n", p.client)
	}
	return nil
}

// brief is a file's text for people: the CA, which many files hold, by its name.
func (p *place) brief(text string) string {
	if p.roots == "" {
		return text
	}
	return strings.ReplaceAll(text, p.roots, fmt.Sprintf("(the CA: what is in %s)\n", p.bundle))
}

func printNotes(out io.Writer, made plan) {
	for _, n := range made.notes {
		fmt.Fprintln(out, n)
	}
}
