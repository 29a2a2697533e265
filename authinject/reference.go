package authinject

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"pushproxy/oci"
)

// maxReferenced is the largest secret read from a file, in bytes.
const maxReferenced = 64 << 10

// Reference is the Source for one account that the configuration names without
// its secrets: each is a reference, "file:/absolute/path" or "env:NAME", read
// anew every time it is needed. One line break at the end is taken off.
type Reference struct {
	// Key is the registry, or a part of it, as Canonical reads it.
	Key string
	// Username is plain text or a reference.
	Username string
	// Password, Identity and Bearer are references, or "" for none.
	Password, Identity, Bearer string
	// LookupEnv reads the environment; nil means os.LookupEnv.
	LookupEnv func(string) (string, bool)
}

// Validate reports a key or reference that cannot work, without reading what
// the references point to.
func (r *Reference) Validate() error {
	if _, _, ok := Canonical(r.Key); !ok {
		return errors.New("credential key " + quoted(r.Key) + " does not name a registry: write it as ghcr.io or ghcr.io/acme")
	}
	set := false
	for _, ref := range []string{r.Password, r.Identity, r.Bearer} {
		if ref == "" {
			continue
		}
		set = true
		name, isEnv := strings.CutPrefix(ref, "env:")
		path, isFile := strings.CutPrefix(ref, "file:")
		if !(isEnv && name != "") && !(isFile && filepath.IsAbs(path)) {
			// What is not a reference may be the secret itself: not quoted.
			return errors.New("a secret of the credential for " + quoted(r.Key) + " is not a reference: write file:/absolute/path or env:NAME")
		}
	}
	if !set {
		return errors.New("the credential for " + quoted(r.Key) + " has no password, identity or bearer: write one as file:/absolute/path or env:NAME")
	}
	return nil
}

// Credential implements Source. A reference that cannot be followed is an error
// that matches oci.ErrDenied.
func (r *Reference) Credential(_ context.Context, repo oci.Repo) (Credential, error) {
	if err := r.Validate(); err != nil {
		return Credential{}, oci.ErrDenied.With("%v", err)
	}
	host, path, _ := Canonical(r.Key)
	if asked, _, ok := Canonical(repo.Host); !ok || asked != host || !prefixOf(path, repo.Name) {
		return Credential{}, ErrNone
	}
	c := Credential{Source: "config reference " + r.first()}
	username, err := r.follow(r.Username)
	if err != nil {
		return Credential{}, err
	}
	c.Username = username.Reveal()
	for _, f := range []struct {
		ref string
		to  *Secret
	}{{r.Password, &c.Password}, {r.Identity, &c.Identity}, {r.Bearer, &c.Bearer}} {
		if *f.to, err = r.follow(f.ref); err != nil {
			return Credential{}, err
		}
	}
	return c, nil
}

// Hosts implements Source.
func (r *Reference) Hosts(context.Context) ([]string, error) {
	if err := r.Validate(); err != nil {
		return nil, oci.ErrDenied.With("%v", err)
	}
	host, _, _ := Canonical(r.Key)
	return []string{host}, nil
}

// first names the reference that people know the credential by.
func (r *Reference) first() string {
	for _, ref := range []string{r.Password, r.Identity, r.Bearer} {
		if ref != "" {
			return ref
		}
	}
	return ""
}

// follow returns what a reference points to; other text is itself.
func (r *Reference) follow(ref string) (Secret, error) {
	fail := func(why string) (Secret, error) {
		return "", oci.ErrDenied.With("the credential for %s cannot be read: %s %s; correct it or the configuration", r.Key, quoted(ref), why)
	}
	if name, ok := strings.CutPrefix(ref, "env:"); ok {
		lookup := r.LookupEnv
		if lookup == nil {
			lookup = os.LookupEnv
		}
		value, ok := lookup(name)
		if !ok || value == "" {
			return fail("is not set")
		}
		return Secret(trimLine(value)), nil
	}
	path, ok := strings.CutPrefix(ref, "file:")
	if !ok {
		return Secret(ref), nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fail(statCause(err))
	}
	if !info.Mode().IsRegular() {
		return fail("is not a regular file")
	}
	if err := ours(info); err != nil {
		return fail("cannot be relied on: " + err.Error())
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(statCause(err))
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxReferenced+1))
	switch value := trimLine(string(data)); {
	case err != nil:
		return fail("could not be read to its end")
	case len(data) > maxReferenced:
		return fail("is larger than 64 KiB")
	case value == "":
		return fail("is empty")
	default:
		return Secret(value), nil
	}
}

func statCause(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read by this user"
	}
	return "cannot be opened"
}

// trimLine takes one line break off the end: editors and echo leave it there.
func trimLine(s string) string {
	return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
}
