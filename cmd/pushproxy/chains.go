package main

import (
	"context"
	"slices"

	"pushproxy/authinject"
	"pushproxy/proxy"
	"pushproxy/status"
)

// chains are the credential sources of each configured principal: what its entry
// names, and nothing that is found by default, so that no account is shared by
// accident.
func chains(c Config) map[string]authinject.Chain {
	all := map[string]authinject.Chain{}
	for _, p := range c.Principals {
		chain := references(p.Credentials)
		helpers := &authinject.Helpers{Timeout: p.Credentials.HelperTimeout, Env: p.Credentials.HelperEnv}
		if path := p.Credentials.DockerConfig; path != "" {
			chain = append(chain, &authinject.DockerConfig{Path: path, Helpers: helpers})
		}
		if path := p.Credentials.PodmanAuth; path != "" {
			chain = append(chain, &authinject.DockerConfig{Path: path, Kind: "podman auth file", Helpers: helpers})
		}
		all[p.Name] = chain
	}
	return all
}

// defaultFiles are the files that local's sources read without being told to.
func defaultFiles(c CredentialsConfig) (files []string) {
	if c.DockerConfig == "" {
		files = append(files, dockerConfig(c), dockerConfig(c)+"/config.json")
	}
	if c.PodmanAuth == "" {
		files = append(files, podmanFiles(c)...)
	}
	return files
}

// chain returns the sources of a principal: none, if it has none of its own.
func (u *upstreams) chain(principal string) authinject.Chain {
	base := proxy.Base(principal)
	if base == proxy.Local {
		return u.sources
	}
	return u.chains[base]
}

// source returns where a caller's credential for a host is found.
func (u *upstreams) source(caller proxy.Caller, principal, host string) authinject.Source {
	if caller.Principal == principal && !caller.Given.Anonymous() {
		return &authinject.Given{Host: host, Account: caller.Given}
	}
	return u.chain(principal)
}

// knows reports whether the caller is logged in to a host that it may reach.
func (u *upstreams) knows(ctx context.Context, host string) (bool, error) {
	caller := proxy.CallerFrom(ctx)
	if !caller.Reaches(host) || slices.Contains(clientNames(u.config), host) {
		return false, nil
	}
	return u.chain(caller.Principal).Knows(ctx, host)
}

// known lists the upstreams of a principal, with what is known of them: for the
// owner also those that nothing was pushed to yet. No credential is looked for.
func (u *upstreams) known(ctx context.Context, principal string) (known []status.Known) {
	at := map[string]int{}
	add := func(host string) *status.Known {
		if _, ok := at[host]; !ok {
			at[host] = len(known)
			known = append(known, status.Known{Host: host})
		}
		return &known[at[host]]
	}
	if principal == proxy.Local {
		for _, host := range u.names(ctx) {
			add(host)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, r := range u.targets {
		if key.principal == principal {
			add(key.host).Quirks = r.Client.Traits()
		}
	}
	return known
}

// maxTargets bounds the targets that are kept. With AuthPassthrough anybody can
// be a new principal.
const maxTargets = 1024

// forgetSome makes room for a target; it needs mu. What is forgotten is made
// again when it is needed.
func (u *upstreams) forgetSome() {
	if len(u.targets) >= maxTargets {
		clear(u.targets)
	}
}
