package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// plan is what a set-up would do.
type plan struct {
	files []change
	notes []string // what a person must know or do
}

// change is one file of a plan.
type change struct {
	path string // on this machine, without the root that tests put before it
	why  string
	mode fs.FileMode // of a file that does not exist yet
	// content makes the file from what the user had there, nil for nothing.
	content func(old []byte) ([]byte, error)
}

func (p *plan) write(path, why, text string) {
	p.files = append(p.files, change{path, why, 0o644, func([]byte) ([]byte, error) { return []byte(text), nil }})
}

func (p *plan) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// step is one change as it applies here and now.
type step struct {
	change
	at    string // where it is written: under the root, behind links
	entry *journalFile
	now   state
	next  []byte
}

// steps reads what is there and works out what is to be written. It changes the
// journal in memory only.
func (j *journal) steps(p plan, client, root string) (steps []step, err error) {
	for _, c := range p.files {
		at := filepath.Join(root, c.path)
		if real, err := filepath.EvalSymlinks(at); err == nil {
			at = real
		} else if exists(at) {
			return nil, fmt.Errorf("%s is a link that leads nowhere: remove it, or make what it leads to", at)
		}
		s := step{change: c, at: at, entry: j.find(at)}
		if s.now, err = look(at); err != nil {
			return nil, err
		}
		if s.entry == nil {
			s.entry = &journalFile{Path: at, Existed: s.now.exists, Mode: s.now.mode, UID: s.now.uid, GID: s.now.gid, Old: s.now.bytes}
			j.Files = append(j.Files, s.entry)
		}
		if s.now.exists && !s.entry.was(s.now) && !s.entry.ours(s.now) {
			return nil, fmt.Errorf("%s was changed after the set-up: undo it first (pushproxy setup %s --undo), which says how", at, client)
		}
		var old []byte
		if s.entry.Existed {
			old = s.entry.Old
		}
		if s.next, err = c.content(old); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if !slices.Contains(s.entry.Clients, client) {
			s.entry.Clients = append(s.entry.Clients, client)
		}
		if hash := hashOf(s.next); !slices.Contains(s.entry.Written, hash) {
			s.entry.Written = append(s.entry.Written, hash)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// done tells whether a step needs nothing any more.
func (s step) done() bool { return s.now.exists && string(s.now.bytes) == string(s.next) }

// apply makes the changes of a plan. Everything is checked before anything is
// written, and the journal is durable before the first file changes.
func (j *journal) apply(p plan, client, root string) ([]step, error) {
	steps, err := j.steps(p, client, root)
	if err != nil {
		return nil, err
	}
	var denied []string
	for _, s := range steps {
		dirs, err := missingDirs(filepath.Dir(s.at))
		if err != nil {
			return nil, err
		}
		j.Dirs = append(j.Dirs, slices.DeleteFunc(dirs, func(d string) bool { return slices.Contains(j.Dirs, d) })...)
		if !s.done() && !writable(filepath.Dir(s.at)) {
			denied = append(denied, s.at)
		}
	}
	if len(denied) > 0 {
		return nil, fmt.Errorf("you may not write %s; nothing was changed. Run it as root, with your own home: sudo env HOME=\"$HOME\" \"$(command -v pushproxy)\" setup %s --apply", strings.Join(denied, ", "), client)
	}
	leaving := j.leaving(steps, client)
	if err := j.save(); err != nil {
		return nil, fmt.Errorf("the journal of set-ups: %w; nothing was changed", err)
	}
	for _, s := range steps {
		if err := s.write(); err != nil {
			return nil, fmt.Errorf("%w; what was changed so far is undone by pushproxy setup %s --undo", err, client)
		}
	}
	return steps, j.release(leaving, client)
}

func (s step) write() error {
	if s.done() {
		return nil
	}
	if err := makeDirs(filepath.Dir(s.at)); err != nil {
		return err
	}
	mode := s.mode
	if s.now.exists {
		mode = s.now.mode
	}
	if err := writeDurably(s.at, s.next, mode); err != nil {
		return err
	}
	if s.now.exists {
		return chown(s.at, s.now.uid, s.now.gid)
	}
	return ownAs(s.at, filepath.Dir(s.at))
}

// leaving are the files of the client that its plan has no more.
func (j *journal) leaving(steps []step, client string) (out []*journalFile) {
	for _, f := range j.Files {
		kept := slices.ContainsFunc(steps, func(s step) bool { return s.entry == f })
		if !kept && slices.Contains(f.Clients, client) {
			out = append(out, f)
		}
	}
	return out
}

// undo puts everything back that the client's set-up changed and that no other
// client needs.
func (j *journal) undo(client string) (undone []string, err error) {
	var mine []*journalFile
	for _, f := range slices.Backward(j.Files) {
		if slices.Contains(f.Clients, client) {
			mine = append(mine, f)
			undone = append(undone, f.Path)
		}
	}
	return undone, j.release(mine, client)
}

// release takes the client from files, and restores those that nobody wants any
// more. What cannot be restored stays in the journal.
func (j *journal) release(files []*journalFile, client string) error {
	var errs []error
	for _, f := range files {
		others := slices.DeleteFunc(slices.Clone(f.Clients), func(c string) bool { return c == client })
		if len(others) > 0 {
			f.Clients = others
			continue
		}
		if err := f.restore(); err != nil {
			errs = append(errs, err)
			continue
		}
		j.Files = slices.DeleteFunc(j.Files, func(g *journalFile) bool { return g == f })
	}
	j.removeDirs()
	return errors.Join(append(errs, j.save())...)
}

// removeDirs removes the directories that a set-up made and that are empty
// again.
func (j *journal) removeDirs() {
	for _, dir := range slices.Backward(slices.Clone(j.Dirs)) {
		inUse := slices.ContainsFunc(j.Files, func(f *journalFile) bool { return strings.HasPrefix(f.Path, dir+string(filepath.Separator)) })
		if inUse {
			continue
		}
		// One that has something else in it now is not ours any more.
		_ = os.Remove(dir)
		j.Dirs = slices.DeleteFunc(j.Dirs, func(d string) bool { return d == dir })
	}
}

// missingDirs lists the directories that must be made for dir, parents first.
func missingDirs(dir string) (missing []string, err error) {
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return nil, fmt.Errorf("%s is not a directory", dir)
		}
		if err == nil || dir == filepath.Dir(dir) {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		missing = append(missing, dir)
		dir = filepath.Dir(dir)
	}
	slices.Reverse(missing)
	return missing, nil
}

// makeDirs makes dir; each directory belongs to who has the one above it.
func makeDirs(dir string) error {
	missing, err := missingDirs(dir)
	if err != nil {
		return err
	}
	for _, d := range missing {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := ownAs(d, filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
