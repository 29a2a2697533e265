package authinject

import (
	"net/netip"
	"strconv"
	"strings"

	"pushproxy/oci"
)

// hub is the canonical host of Docker Hub, and hubKey what docker and its
// helpers store its credential under.
const (
	hub    = "docker.io"
	hubKey = "https://index.docker.io/v1/"
)

// maxKey is the longest credential key read, in bytes.
const maxKey = 1024

// Canonical returns the one form of a credential key or registry name: the
// host in lower case with the port that was written, without scheme and one
// trailing dot, and the repository prefix that follows it, if any.
// "https://index.docker.io/v1/" is docker.io, "https://ghcr.io" is ghcr.io,
// "ghcr.io/acme" is ghcr.io and acme.
//
// It is not ok when the key cannot name a registry: with user information, a
// per cent sign, an IPv6 zone, a query, another scheme than http and https,
// characters beyond ASCII, or a path that no repository name can start with.
func Canonical(key string) (host, path string, ok bool) {
	if len(key) > maxKey || strings.ContainsAny(key, "@%?#\\ \t\r\n") {
		return "", "", false
	}
	rest := key
	if scheme, after, found := strings.Cut(key, "://"); found {
		if s := strings.ToLower(scheme); s != "https" && s != "http" {
			return "", "", false
		}
		rest = after
	}
	authority, path, _ := strings.Cut(rest, "/")
	host, ok = canonicalAuthority(authority)
	if !ok {
		return "", "", false
	}
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = hub
	}
	path = strings.TrimSuffix(path, "/")
	// docker and old logins store the address of the API itself.
	if path == "v1" || path == "v2" {
		path = ""
	}
	// docker stores its web session beside the password, as
	// https://index.docker.io/v1/access-token; that is no repository.
	if strings.HasPrefix(path, "v1/") || strings.HasPrefix(path, "v2/") || path != "" && !oci.ValidName(path) {
		return "", "", false
	}
	return host, path, true
}

// canonicalAuthority returns host or host:port in its one form.
func canonicalAuthority(s string) (string, bool) {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return "", false
		}
		port = ":" + port
	}
	if strings.HasPrefix(host, "[") {
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" || !strings.HasSuffix(host, "]") {
			return "", false
		}
		return "[" + addr.String() + "]" + port, true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !validHostname(host) {
		return "", false
	}
	return host + port, true
}

// validHostname reports whether s is a name or an IPv4 address in lower case.
// Underscores pass: names of containers have them.
func validHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// prefixOf reports whether path is the name itself, or leading whole
// components of it. The empty path is a prefix of every name.
func prefixOf(path, name string) bool {
	return path == "" || path == name || strings.HasPrefix(name, path+"/")
}
