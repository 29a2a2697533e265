package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"pushproxy/authinject"
)

// editAuths writes a login for the registries into a docker config or podman
// auth file, or takes it out where the secret is empty. Whatever else the file
// holds stays.
func editAuths(file string, names []string, secret authinject.Secret) error {
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target
	}
	all, mode := map[string]json.RawMessage{}, fs.FileMode(0o600)
	raw, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if secret == "" {
			return nil
		}
	case err != nil:
		return err
	case len(raw) > 0:
		if err := json.Unmarshal(raw, &all); err != nil {
			// What JSON cannot read may be quoted in its error.
			return fmt.Errorf("%s is not JSON; correct it first", file)
		}
	}
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
	}
	auths, helpers, err := sections(file, all)
	if err != nil {
		return err
	}
	_, stored := all["credsStore"]
	for _, name := range names {
		delete(auths, name)
		if string(helpers[name]) == `""` {
			delete(helpers, name)
		}
		if secret == "" {
			continue
		}
		auth := base64.StdEncoding.EncodeToString([]byte("pushproxy:" + secret.Reveal()))
		auths[name] = json.RawMessage(`{"auth":"` + auth + `"}`)
		if stored {
			// An empty helper is the file itself; the store would be asked else.
			helpers[name] = json.RawMessage(`""`)
		}
	}
	return writeAuths(file, mode, all, auths, helpers)
}

func sections(file string, all map[string]json.RawMessage) (auths, helpers map[string]json.RawMessage, err error) {
	auths, helpers = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for key, to := range map[string]*map[string]json.RawMessage{"auths": &auths, "credHelpers": &helpers} {
		if text := all[key]; len(text) > 0 && string(text) != "null" {
			if err := json.Unmarshal(text, to); err != nil {
				return nil, nil, fmt.Errorf("%s: %s is not an object; correct it first", file, key)
			}
		}
	}
	return auths, helpers, nil
}

func writeAuths(file string, mode fs.FileMode, all, auths, helpers map[string]json.RawMessage) error {
	for key, section := range map[string]map[string]json.RawMessage{"auths": auths, "credHelpers": helpers} {
		if _, there := all[key]; len(section) == 0 && !there {
			continue
		}
		text, err := json.Marshal(section)
		if err != nil {
			return err
		}
		all[key] = text
	}
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".pushproxy-")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
