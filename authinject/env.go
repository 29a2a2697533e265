package authinject

import (
	"context"
	"os"
	"slices"
	"sync"

	"pushproxy/oci"
)

// Env is the Source that reads docker's DOCKER_AUTH_CONFIG, or another variable
// like it: the JSON of a docker config, of which only auths counts. Helpers
// that it names are not run, as in docker. The variable is read once; unset or
// empty it holds nothing. Set the fields before its first use and do not copy
// it.
type Env struct {
	// Name of the variable; "" is DOCKER_AUTH_CONFIG.
	Name string
	// Value is the content, where the caller has read it already. Left empty,
	// the variable is read when it is needed, and nothing secret lies in Env.
	Value Secret
	// LookupEnv reads the environment; nil means os.LookupEnv.
	LookupEnv func(string) (string, bool)

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
		lookup := e.LookupEnv
		if lookup == nil {
			lookup = os.LookupEnv
		}
		value := e.Value.Reveal()
		if value == "" {
			value, _ = lookup(e.name())
		}
		if value == "" {
			return
		}
		config, err := parseAuthConfig([]byte(value))
		if err != nil {
			e.err = oci.ErrDenied.With("the environment variable %s cannot be used: %v; correct or unset it", e.name(), err)
			return
		}
		e.config = config
	})
	return e.config, e.err
}
