package authinject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"pushproxy/oci"
)

// maxConfig is the largest config file read, in bytes.
const maxConfig = 4 << 20

// settled is how long a file must have been left alone before its times are
// trusted to show a change: two writes within one tick of a file system's
// clock look the same.
const settled = 2 * time.Second

// DockerConfig is the Source that reads a docker config file, or podman's
// auth.json, which has the same format. It reads the file again whenever it
// changes; a missing file holds nothing. Set the fields before its first use
// and do not copy it.
//
// Keys may name a part of a registry ("ghcr.io/acme"): the longest one that
// leads the repository's name, in whole components, wins. For one key the
// order is docker's: its helper in credHelpers, alone; else credsStore, and if
// that has nothing, auths.
type DockerConfig struct {
	// Path of the file, or of the directory that has it as config.json.
	Path string
	// Kind names the file for people; "" is "docker config".
	Kind string
	// Helpers runs the credential helpers that the file names; nil runs them
	// with the defaults of Helpers. Sources may share one.
	Helpers *Helpers

	mu   sync.Mutex
	last *readFile
	own  *Helpers // where Helpers is nil
}

// readFile is a file's content and what it looked like when it was read.
type readFile struct {
	info   fs.FileInfo
	stable bool
	config *authConfig
	err    error
}

// PodmanFiles returns the places of podman's, buildah's and skopeo's auth.json
// in the order in which they look, given the environment and the home
// directory. REGISTRY_AUTH_FILE, where it is set, is the only one.
func PodmanFiles(getenv func(string) string, home string) []string {
	if file := getenv("REGISTRY_AUTH_FILE"); file != "" {
		return []string{file}
	}
	var files []string
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	} else if home != "" {
		files = append(files, filepath.Join(home, ".config", "containers", "auth.json"))
	}
	return files
}

// Credential implements Source. A file that cannot be read, and a helper that
// fails, are errors that match oci.ErrDenied.
func (d *DockerConfig) Credential(ctx context.Context, repo oci.Repo) (Credential, error) {
	config, path, err := d.read()
	if err != nil {
		return Credential{}, err
	}
	host, _, ok := Canonical(repo.Host)
	if !ok || config == nil {
		return Credential{}, ErrNone
	}
	repo.Host = host
	for _, l := range config.levels(repo) {
		c, err := d.at(ctx, config, l, repo.Host, path)
		if !errors.Is(err, errNextLevel) {
			return c, err
		}
	}
	return Credential{}, ErrNone
}

// errNextLevel says that a shorter key may still have the credential.
var errNextLevel = errors.New("nothing under this key")

// at looks for the credential under one key of the file.
func (d *DockerConfig) at(ctx context.Context, config *authConfig, l level, host, path string) (Credential, error) {
	useStore := config.store != "" && (l.path == "" || len(l.auths) > 0)
	if len(l.helpers) > 0 {
		// As in docker, a helper named for a registry answers for it alone,
		// and an empty name stands for the file itself.
		if name := *l.helpers[0].helper; name != "" {
			return d.helpers().get(ctx, name, helperKeys(host, l.path, l.helpers))
		}
		useStore = false
	}
	if useStore {
		c, err := d.helpers().get(ctx, config.store, helperKeys(host, l.path, l.auths))
		if !errors.Is(err, ErrNone) {
			return c, err
		}
	}
	for _, k := range l.auths {
		if !k.auth.empty() {
			return k.auth.credential(d.kind()+" "+path, k.key)
		}
	}
	return Credential{}, errNextLevel
}

// helperKeys returns what a helper is asked for, in order: docker's own name
// of the registry, then the spellings in the file.
func helperKeys(host, path string, written []keyed) []string {
	keys := []string{helperKey(host, path)}
	for _, k := range written {
		if !slices.Contains(keys, k.key) {
			keys = append(keys, k.key)
		}
	}
	return keys
}

// Hosts implements Source: the registries under auths and credHelpers, and
// what the credsStore lists, if it does.
func (d *DockerConfig) Hosts(ctx context.Context) ([]string, error) {
	config, _, err := d.read()
	if err != nil || config == nil {
		return nil, err
	}
	var hosts []string
	for _, k := range config.keys {
		// With a credsStore, docker leaves an empty entry as a note.
		if k.auth == nil || !k.auth.empty() || config.store != "" {
			hosts = append(hosts, k.host)
		}
	}
	if config.store != "" {
		for _, key := range d.helpers().list(ctx, config.store) {
			if host, _, ok := Canonical(key); ok {
				hosts = append(hosts, host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}

func (d *DockerConfig) kind() string {
	if d.Kind == "" {
		return "docker config"
	}
	return d.Kind
}

func (d *DockerConfig) helpers() *Helpers {
	if d.Helpers != nil {
		return d.Helpers
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.own == nil {
		d.own = &Helpers{}
	}
	return d.own
}

// read returns the file's content and path; nil when there is no file.
func (d *DockerConfig) read() (*authConfig, string, error) {
	path := d.Path
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, "config.json")
		info, err = os.Stat(path)
	}
	if d.Path == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, path, nil
	}
	if err != nil {
		return nil, path, d.unreadable(path, plainCause(err))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.last; l != nil && l.stable && os.SameFile(l.info, info) &&
		l.info.Size() == info.Size() && l.info.ModTime().Equal(info.ModTime()) {
		return l.config, path, l.err
	}
	l := &readFile{info: info, stable: time.Since(info.ModTime()) > settled}
	l.config, err = readAuthConfig(path, info)
	if err != nil {
		l.err = d.unreadable(path, err)
	}
	d.last = l
	return l.config, path, l.err
}

func readAuthConfig(path string, info fs.FileInfo) (*authConfig, error) {
	// Opening a pipe would wait for its writer.
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	if err := ours(info); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plainCause(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	switch {
	case err != nil:
		return nil, plainCause(err)
	case len(data) > maxConfig:
		return nil, fmt.Errorf("it is larger than %d MiB", maxConfig>>20)
	case len(data) == 0:
		// docker treats a file that was just created so.
		return &authConfig{}, nil
	}
	return parseAuthConfig(data)
}

func (d *DockerConfig) unreadable(path string, why error) error {
	return oci.ErrDenied.With("the %s %s cannot be used: %v; correct the file, or point the proxy to another one", d.kind(), quoted(path), why)
}

// plainCause takes the path off a file error, whose text names it again.
func plainCause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
