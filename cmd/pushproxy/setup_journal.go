package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// journal is what set-ups changed and what was there before. It is written
// whole before any of the changes it names is made, so whatever a crash leaves
// can be undone.
type journal struct {
	file  string
	Files []*journalFile `json:"files"`
	// Dirs are directories that a set-up made, parents first.
	Dirs []string `json:"dirs,omitempty"`
}

// journalFile is one file that a set-up owns or changed.
type journalFile struct {
	Path    string      `json:"path"`
	Clients []string    `json:"clients"` // whose set-ups want it
	Existed bool        `json:"existed"`
	Mode    fs.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid,omitempty"`
	GID     int         `json:"gid,omitempty"`
	Old     []byte      `json:"old,omitempty"`
	Written []string    `json:"written"` // hashes of all contents that were written there
}

// newSuffix ends the name under which a file is written before it is renamed.
const newSuffix = ".pushproxy-new"

func openJournal(file string) (*journal, error) {
	j := &journal{file: file}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, j); err != nil {
		return nil, fmt.Errorf("the journal of set-ups %s cannot be read (%w): move it away; what it would have put back is in it, in base64", file, err)
	}
	return j, nil
}

// save makes the journal durable; one that is empty is removed.
func (j *journal) save() error {
	if len(j.Files) == 0 && len(j.Dirs) == 0 {
		if err := os.Remove(j.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(j.file), 0o700); err != nil {
		return err
	}
	if err := writeDurably(j.file, text, 0o600); err != nil {
		return err
	}
	// Root may set up for a user: what is in the user's directory is the user's.
	return ownAs(j.file, filepath.Dir(j.file))
}

func (j *journal) find(path string) *journalFile {
	for _, f := range j.Files {
		if f.Path == path {
			return f
		}
	}
	return nil
}

// clients are the clients that are set up, wholly or in part.
func (j *journal) clients() (names []string) {
	for _, f := range j.Files {
		names = append(names, f.Clients...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// state is what is at a path now.
type state struct {
	exists bool
	bytes  []byte
	mode   fs.FileMode
	uid    int
	gid    int
}

func look(path string) (state, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, err
	}
	if !info.Mode().IsRegular() {
		return state{}, fmt.Errorf("%s is not a regular file", path)
	}
	text, err := os.ReadFile(path)
	uid, gid := ownerOf(info)
	return state{exists: true, bytes: text, mode: info.Mode().Perm(), uid: uid, gid: gid}, err
}

// was tells whether a file is as it was before any set-up.
func (f *journalFile) was(s state) bool {
	return s.exists == f.Existed && string(s.bytes) == string(f.Old)
}

// ours tells whether a set-up wrote what is there.
func (f *journalFile) ours(s state) bool {
	return s.exists && slices.Contains(f.Written, hashOf(s.bytes))
}

// restore puts back what was there before, unless somebody changed it since.
func (f *journalFile) restore() error {
	_ = os.Remove(f.Path + newSuffix)
	s, err := look(f.Path)
	switch {
	case err != nil:
		return err
	case f.was(s):
		return nil
	case s.exists && !f.ours(s):
		return fmt.Errorf("%s was changed after the set-up and is left as it is: move it away and undo again to get back what was there before", f.Path)
	case !f.Existed:
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := makeDirs(filepath.Dir(f.Path)); err != nil {
		return err
	}
	if err := writeDurably(f.Path, f.Old, f.Mode); err != nil {
		return err
	}
	return chown(f.Path, f.UID, f.GID)
}

// writeDurably replaces a file by one rename.
func writeDurably(path string, text []byte, mode fs.FileMode) error {
	temp := path + newSuffix
	_ = os.Remove(temp)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	// Whatever the umask is.
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
