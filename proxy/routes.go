package proxy

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"pushproxy/oci"
)

// Upstream is one entry of the configuration, as far as routing goes.
type Upstream struct {
	Host    string   // canonical host, in lower case
	Aliases []string // first path components that mean it
	Prefix  string   // put before names by alias or default, without slashes at its ends
}

// Routes chooses the upstream repository of a request. Allowed are the
// configured upstreams and the hosts that Known confirms; nothing else is
// reachable, whatever a client writes (trust.md S13).
type Routes struct {
	Upstreams []Upstream
	Default   string // host for names without a registry; empty: there is none
	// Known reports whether the user has a credential for the host.
	Known func(ctx context.Context, host string) (bool, error)
	// Hosts lists the hosts that the user has credentials for, for messages.
	Hosts func(ctx context.Context) []string
}

const (
	hubName     = "docker.io"
	hubLibrary  = "library/"
	hubOldName  = "index.docker.io"
	hubRegistry = "registry-1.docker.io"
)

// Route returns the upstream repository for a name as the client wrote it, in
// this order: the registry that the client names beside it (?ns=), an alias as
// first component, a host name as first component, the default upstream. When
// none applies the error is oci.ErrNameUnknown and lists the routes there are.
func (s *Routes) Route(ctx context.Context, namespace, name string) (oci.Repo, error) {
	first, rest, _ := strings.Cut(name, "/")
	if namespace != "" {
		return s.byNamespace(ctx, namespace, name)
	}
	for _, u := range s.Upstreams {
		if rest != "" && slices.Contains(u.Aliases, first) {
			return u.short(rest)
		}
	}
	if rest != "" && isHost(first) {
		return s.byHost(ctx, first, rest)
	}
	if s.Default != "" {
		for _, u := range s.Upstreams {
			if u.Host == canonical(s.Default) {
				return u.short(name)
			}
		}
		return s.byHost(ctx, s.Default, name)
	}
	return oci.Repo{}, s.unknown(ctx, "the repository name "+name+" does not begin with a registry")
}

// byNamespace serves clients that send the registry beside the name (containerd
// since 2.3). With override_path the name may carry the registry as well.
func (s *Routes) byNamespace(ctx context.Context, namespace, name string) (oci.Repo, error) {
	if first, rest, ok := strings.Cut(name, "/"); ok && isHost(first) && canonical(first) == canonical(namespace) {
		name = rest
	}
	return s.byHost(ctx, namespace, name)
}

func (s *Routes) byHost(ctx context.Context, host, name string) (oci.Repo, error) {
	host = canonical(host)
	for _, u := range s.Upstreams {
		if u.Host == host {
			return u.repo(name)
		}
	}
	if !hostExp.MatchString(host) {
		return oci.Repo{}, s.unknown(ctx, fmt.Sprintf("%q is not the name of a registry", clip(host)))
	}
	known := false
	if s.Known != nil {
		var err error
		if known, err = s.Known(ctx, host); err != nil {
			return oci.Repo{}, err
		}
	}
	if !known {
		return oci.Repo{}, s.unknown(ctx, "no credential and no configuration entry is known for the registry "+host+" (log in with: docker login "+host+")")
	}
	return Upstream{Host: host}.repo(name)
}

func (s *Routes) unknown(ctx context.Context, why string) error {
	var routes []string
	for _, u := range s.Upstreams {
		routes = append(routes, append([]string{u.Host}, u.Aliases...)...)
	}
	if s.Hosts != nil {
		routes = append(routes, s.Hosts(ctx)...)
	}
	slices.Sort(routes)
	routes = slices.Compact(routes)
	list := "none: log in to a registry or configure an upstream"
	if len(routes) > 0 {
		list = strings.Join(routes[:min(len(routes), 20)], ", ")
	}
	return oci.ErrNameUnknown.With("%s; push to <registry>/<repository>, where the registries known here are: %s", why, list)
}

// short is the repository of a name that is written for pushproxy, without the
// registry's own: the prefix belongs to it. Who writes the registry's name means
// the repository that it has there.
func (u Upstream) short(name string) (oci.Repo, error) {
	if u.Prefix != "" {
		name = u.Prefix + "/" + name
	}
	return u.repo(name)
}

func (u Upstream) repo(name string) (oci.Repo, error) {
	if u.Host == hubName && !strings.Contains(name, "/") {
		name = hubLibrary + name
	}
	if !oci.ValidName(name) {
		return oci.Repo{}, oci.ErrNameInvalid.With("repository %s: the name that follows the registry is empty or not valid", clip(name))
	}
	return oci.Repo{Host: u.Host, Name: name}, nil
}

// hostExp is a host name or address with or without a port: what may be asked
// for in the user's credentials.
var hostExp = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?$`)

// isHost tells a registry from the first component of a repository name, as
// docker does: only a registry has a dot or is localhost.
func isHost(component string) bool {
	return strings.Contains(component, ".") || component == "localhost"
}

// canonical gives Docker Hub its one name; others keep theirs in lower case.
func canonical(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == hubOldName || host == hubRegistry {
		return hubName
	}
	return host
}
