package authinject

import (
	"context"

	"pushproxy/oci"
)

// Given is the Source for one account that its user brought along, for one
// registry. It lives as long as whoever holds it.
type Given struct {
	// Host is the registry's canonical host.
	Host string
	// Account is what to log in there with.
	Account Credential
}

// Credential implements Source.
func (g *Given) Credential(_ context.Context, repo oci.Repo) (Credential, error) {
	if repo.Host != g.Host {
		return Credential{}, ErrNone
	}
	return g.Account, nil
}

// Hosts implements Source.
func (g *Given) Hosts(context.Context) ([]string, error) { return []string{g.Host}, nil }
