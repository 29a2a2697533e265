package authinject

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pushproxy/oci"
)

// authFile is the part of a docker config or podman auth.json that is about
// credentials, as it is written.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredsStore  string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`
}

// authEntry is one account in a file. The exported fields are what docker
// writes; a file may hold any of them.
type authEntry struct {
	Auth          Secret `json:"auth"`
	Username      string `json:"username"`
	Password      Secret `json:"password"`
	IdentityToken Secret `json:"identitytoken"`
	RegistryToken Secret `json:"registrytoken"`
}

func (e authEntry) empty() bool { return e == authEntry{} }

// authConfig is a file read into the form that is searched.
type authConfig struct {
	store string  // credsStore
	keys  []keyed // most specific first
}

// keyed is what a file says under one key.
type keyed struct {
	key        string // as written
	host, path string // as Canonical reads it
	auth       *authEntry
	helper     *string
}

// parseAuthConfig reads the JSON of a docker config or auth.json. Keys that
// name no registry are skipped. The error quotes nothing of the content.
func parseAuthConfig(data []byte) (*authConfig, error) {
	var file authFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, jsonError(err)
	}
	c := &authConfig{store: file.CredsStore}
	for key, entry := range file.Auths {
		if host, path, ok := Canonical(key); ok {
			c.keys = append(c.keys, keyed{key: key, host: host, path: path, auth: &entry})
		}
	}
	for key, helper := range file.CredHelpers {
		if host, path, ok := Canonical(key); ok {
			c.keys = append(c.keys, keyed{key: key, host: host, path: path, helper: &helper})
		}
	}
	slices.SortFunc(c.keys, func(a, b keyed) int {
		if n := len(b.path) - len(a.path); n != 0 {
			return n
		}
		// Of two spellings of one key, the one that docker itself writes.
		if n := a.oddness() - b.oddness(); n != 0 {
			return n
		}
		return strings.Compare(a.key, b.key)
	})
	return c, nil
}

// oddness is 0 for the spelling of a key that clients write today.
func (k keyed) oddness() int {
	if k.key == helperKey(k.host, k.path) {
		return 0
	}
	return 1
}

// helperKey is what docker and its helpers call a registry.
func helperKey(host, path string) string {
	switch {
	case path != "":
		return host + "/" + path
	case host == hub:
		return hubKey
	}
	return host
}

// jsonError says where JSON is broken without quoting any of it: the standard
// library's texts do.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("it is not JSON (byte %d)", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("a value has the wrong type (byte %d; %s is wanted)", kind.Offset, kind.Type.Kind())
	}
	return errors.New("it is not the JSON of a docker config")
}

// level is all that a file says about one prefix of a repository.
type level struct {
	path    string
	helpers []keyed
	auths   []keyed
}

// levels returns what concerns repo, the longest prefix first, and always
// ends with the registry as a whole.
func (c *authConfig) levels(repo oci.Repo) []level {
	var all []level
	for _, k := range c.keys {
		if k.host != repo.Host || !prefixOf(k.path, repo.Name) {
			continue
		}
		if len(all) == 0 || all[len(all)-1].path != k.path {
			all = append(all, level{path: k.path})
		}
		last := &all[len(all)-1]
		if k.helper != nil {
			last.helpers = append(last.helpers, k)
		} else {
			last.auths = append(last.auths, k)
		}
	}
	if len(all) == 0 || all[len(all)-1].path != "" {
		all = append(all, level{})
	}
	return all
}

// credential reads the account out of an entry. source says where it stands.
func (e authEntry) credential(source, key string) (Credential, error) {
	c := Credential{
		Username: e.Username, Password: e.Password,
		Identity: e.IdentityToken, Bearer: e.RegistryToken, Source: source,
	}
	if e.Auth == "" {
		return c, nil
	}
	raw, err := decodeBase64(strings.TrimSpace(e.Auth.Reveal()))
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok {
		return Credential{}, oci.ErrDenied.With(`%s: "auth" of %s is not the base64 of user:password: run docker login again for it`, source, quoted(key))
	}
	c.Username = user
	// docker pads with NULs.
	c.Password = Secret(strings.Trim(password, "\x00"))
	return c, nil
}

// decodeBase64 takes base64 with and without padding.
func decodeBase64(s string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return base64.RawStdEncoding.DecodeString(s)
	}
	return raw, nil
}
