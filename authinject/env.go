package authinject

import (
	"context"
	"slices"
	"sync"

	"pushproxy/oci"
)

// Env is the Source that reads the content of an environment variable such as
// docker's DOCKER_AUTH_CONFIG: the JSON of a docker config, of which only auths
// counts. Helpers that it names are not run, as in docker. Set the fields
// before its first use and do not copy it.
type Env struct {
	// Name of the variable, for messages; "" is DOCKER_AUTH_CONFIG.
	Name string
	// Value of the variable; "" holds nothing.
	Value Secret

	once   sync.Once
	config *authConfig
	err    error
}

// Credential implements Source. A value that cannot be read is an error that
// matches oci.ErrDenied.
func (e *Env) Credential(_ context.Context, repo oci.Repo) (Credential, error) {
	config, err := e.parsed()
	if err != nil {
		return Credential{}, err
	}
	host, _, ok := Canonical(repo.Host)
	if !ok {
		return Credential{}, ErrNone
	}
	for _, l := range config.levels(oci.Repo{Host: host, Name: repo.Name}) {
		for _, k := range l.auths {
			if !k.auth.empty() {
				return k.auth.credential("env "+e.name(), k.key)
			}
		}
	}
	return Credential{}, ErrNone
}

// Hosts implements Source.
func (e *Env) Hosts(context.Context) ([]string, error) {
	config, err := e.parsed()
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, k := range config.keys {
		if k.auth != nil && !k.auth.empty() {
			hosts = append(hosts, k.host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}

func (e *Env) name() string {
	if e.Name == "" {
		return "DOCKER_AUTH_CONFIG"
	}
	return e.Name
}

func (e *Env) parsed() (*authConfig, error) {
	e.once.Do(func() {
		e.config = &authConfig{}
		if e.Value == "" {
			return
		}
		config, err := parseAuthConfig([]byte(e.Value.Reveal()))
		if err != nil {
			e.err = oci.ErrDenied.With("the environment variable %s cannot be used: %v; correct or unset it", e.name(), err)
			return
		}
		e.config = config
	})
	return e.config, e.err
}
