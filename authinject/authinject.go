// Package authinject finds the credentials that a person already has for a
// registry and injects them into requests to that registry, and to nowhere
// else. It is the only room that holds a secret.
//
// A Source finds a Credential for a repository; a Chain asks several in order.
// Transport is the http.RoundTripper that turns a credential into an
// Authorization header: Basic, or Bearer by way of the registry's token
// server. What leaves the room is never a secret, only an answer that a
// credential helped to get, or an Owner, a keyed hash.
//
// Three rules hold everywhere. A credential goes to the exact origin it is
// configured for and to a token server that the realm policy accepts, never
// along a redirect. A source that fails is an error, never a reason to try the
// next account. Nothing that was read from a credential, a helper or a token
// server appears in an error.
//
// The room stores nothing on disk: tokens and helper answers live in memory.
package authinject

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"pushproxy/oci"
)

// ErrNone says that a source holds no credential for a repository. It is the
// only error after which the next source of a Chain is asked.
var ErrNone = errors.New("no credential")

// Credential is an account at one registry. The zero Credential is anonymous.
//
// Ask for it where it is needed and do not keep it: see Secret for what can be
// printed by accident.
type Credential struct {
	// Username of the account; may be empty beside Identity or Bearer.
	Username string
	// Password for Basic and for token servers asked by GET.
	Password Secret
	// Identity is a refresh token, exchanged at the token server (OAuth2).
	Identity Secret
	// Bearer is a registry token, sent to the registry as it is.
	Bearer Secret
	// Source says where it was found, for people: "docker config
	// /home/u/.docker/config.json", "helper docker-credential-pass",
	// "env DOCKER_AUTH_CONFIG". Never secret.
	Source string
	// Minted is true for what a credential helper answered: such a secret
	// changes every few hours while the account stays the same.
	Minted bool
}

// Anonymous reports whether c carries nothing that could be sent.
func (c Credential) Anonymous() bool {
	return c.Username == "" && c.Password == "" && c.Identity == "" && c.Bearer == ""
}

// fingerprint tells credentials apart within this process. It is not keyed, so
// it must never be stored or shown.
func (c Credential) fingerprint() [32]byte {
	return sha256.Sum256(lengthPrefixed(c.Source, c.Username, c.Password.Reveal(), c.Identity.Reveal(), c.Bearer.Reveal()))
}

// lengthPrefixed joins fields so that no two different lists give the same
// bytes.
func lengthPrefixed(fields ...string) []byte {
	var b []byte
	for _, f := range fields {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// Source finds credentials. All methods may be called concurrently.
type Source interface {
	// Credential returns the credential for a repository, or ErrNone. With an
	// empty repo.Name it is the one for the registry as a whole. Any other
	// error names the source and the remedy, and is meant to be shown.
	Credential(ctx context.Context, repo oci.Repo) (Credential, error)
	// Hosts returns the canonical hosts that the source is known to hold
	// credentials for, sorted, as far as it can tell: a credential helper may
	// hold more.
	Hosts(ctx context.Context) ([]string, error)
}

// Chain asks its sources in order.
type Chain []Source

// Credential returns the answer of the first source that has one, or ErrNone.
// A source that fails otherwise ends the search: the account behind it may be
// the one that was meant.
func (c Chain) Credential(ctx context.Context, repo oci.Repo) (Credential, error) {
	for _, s := range c {
		found, err := s.Credential(ctx, repo)
		if !errors.Is(err, ErrNone) {
			return found, err
		}
	}
	return Credential{}, ErrNone
}

// Hosts returns the hosts of all sources, sorted. It fails with the first
// source that cannot be read.
func (c Chain) Hosts(ctx context.Context) ([]string, error) {
	var all []string
	for _, s := range c {
		hosts, err := s.Hosts(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, hosts...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Knows reports whether the user is logged in to host, which may be written in
// any way that Canonical reads. It asks the sources in order, first for their
// hosts, then for a credential, and stops at the first that knows the host or
// fails. Answers of helpers are cached, "no" for at most 30 seconds.
func (c Chain) Knows(ctx context.Context, host string) (bool, error) {
	canonical, path, ok := Canonical(host)
	if !ok || path != "" {
		return false, nil
	}
	for _, s := range c {
		hosts, err := s.Hosts(ctx)
		if err != nil {
			return false, fmt.Errorf("is there a login for %s: %w", canonical, err)
		}
		if slices.Contains(hosts, canonical) {
			return true, nil
		}
		_, err = s.Credential(ctx, oci.Repo{Host: canonical})
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, ErrNone) {
			return false, fmt.Errorf("is there a login for %s: %w", canonical, err)
		}
	}
	return false, nil
}

type rejectedKey struct{}

// withRejected returns a context that tells sources which credential a server
// has just refused, so that a cached copy of it is not given out again.
func withRejected(ctx context.Context, c Credential) context.Context {
	return context.WithValue(ctx, rejectedKey{}, c.fingerprint())
}

// isRejected reports whether c is the credential of withRejected.
func isRejected(ctx context.Context, c Credential) bool {
	fp, ok := ctx.Value(rejectedKey{}).([32]byte)
	return ok && fp == c.fingerprint()
}
