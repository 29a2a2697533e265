// Package oci is the vocabulary that every other room speaks: repositories,
// requests of the distribution API, manifests and errors. It does no I/O and
// imports no other room.
//
// Names, tags and digests are accepted exactly as the distribution
// specification writes them; nothing is normalised silently, because a value
// that two rooms read differently is how a request ends at the wrong place.
package oci

import (
	// The hash registrations that go-digest needs to know both algorithms.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// MaxName is the longest repository name accepted, in bytes. The
	// specification recommends that host and name together stay within 255.
	MaxName = 255
	// MaxTag is the longest tag accepted, in bytes (specification, "Pulling
	// manifests").
	MaxTag = 128
	// MaxManifest is the largest manifest accepted, in bytes (specification,
	// "Pushing Manifests": registries should take at least 4 MiB).
	MaxManifest = 4 << 20
)

var (
	nameExp = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagExp  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// Repo is a repository of an upstream registry: the registry's canonical host
// (with its port, where it has one) and the repository's name there.
type Repo struct{ Host, Name string }

// String returns host/name, the form that people read and type.
func (r Repo) String() string { return r.Host + "/" + r.Name }

// ValidName reports whether name is a repository name as the specification
// writes it, at most MaxName bytes long.
func ValidName(name string) bool { return len(name) <= MaxName && nameExp.MatchString(name) }

// ValidTag reports whether tag is a tag as the specification writes it.
func ValidTag(tag string) bool { return tagExp.MatchString(tag) }

// ParseDigest returns s as a digest. Only sha256 and sha512 with lower-case
// hexadecimal of the exact length pass; everything else is ErrDigestInvalid,
// since a digest is also a storage key.
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	algorithm, _, ok := strings.Cut(s, ":")
	if !ok || (algorithm != string(digest.SHA256) && algorithm != string(digest.SHA512)) || d.Validate() != nil {
		return "", ErrDigestInvalid.With("digest %s is not sha256:<64 hex> or sha512:<128 hex> in lower case", quote(s))
	}
	return d, nil
}

// quote makes text from a request safe to show: one line, at most 256 bytes.
func quote(s string) string {
	if len(s) > 256 {
		s = s[:256] + "…"
	}
	return fmt.Sprintf("%q", s)
}
