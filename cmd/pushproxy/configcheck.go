package main

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"pushproxy/oci"
)

type sayFunc func(format string, args ...any)

var hostExp = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

func (u UpstreamConfig) check(key string, say sayFunc, oneOf func(key, value string, allowed ...string)) {
	if !hostExp.MatchString(u.Host) {
		say("%s.host: %q is not a registry's name, such as ghcr.io or registry.example.com:5000", key, u.Host)
	}
	if strings.Contains(u.Host, ":") && len(u.Aliases) == 0 {
		say("%s.aliases: %s has a port, which a repository path cannot hold: give it an alias to push to", key, u.Host)
	}
	for _, text := range append([]string{u.URL}, u.FallbackURLs...) {
		if why := webURL(text, "https://registry.example.com"); why != "" {
			say("%s.url: %q %s", key, text, why)
		}
	}
	for _, alias := range u.Aliases {
		if !oci.ValidName(alias) || strings.Contains(alias, "/") {
			say("%s.aliases: %q is not one component of a repository name", key, alias)
		}
	}
	if u.Prefix != "" && !oci.ValidName(u.Prefix) {
		say("%s.prefix: %q is not the beginning of a repository name", key, u.Prefix)
	}
	oneOf(key+".mode", u.Mode, "sync", "async")
	u.Sending.check(key, say, oneOf)
	if u.CAFile != "" {
		if _, err := readCAs(u.CAFile); err != nil {
			say("%s.ca_file: %v", key, err)
		}
	}
	for _, realm := range append(append([]string{}, u.TrustedRealms...), u.UploadHosts...) {
		if !hostExp.MatchString(strings.ToLower(realm)) {
			say("%s.trusted_realms, upload_hosts: %q is not a host name or host:port", key, realm)
		}
	}
}

func (r ReferenceConfig) check(key string, say sayFunc) {
	if r.For == "" {
		say("%s.for: it needs a registry, or a registry and the beginning of a repository, such as ghcr.io/acme", key)
	}
	if (r.Password == "") == (r.IdentityToken == "") {
		say("%s: it needs exactly one of password and identity_token", key)
	}
	for name, value := range map[string]string{"password": r.Password, "identity_token": r.IdentityToken} {
		if value != "" && !strings.HasPrefix(value, "file:") && !strings.HasPrefix(value, "env:") {
			say("%s.%s: secrets are not written here; name where it is kept: file:PATH or env:NAME", key, name)
		}
	}
}

// webURL returns what is wrong with a URL of scheme, host and port, such as
// example.
func webURL(text, example string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "is not a URL such as " + example
	case u.User != nil:
		return "holds a user name or password: put credentials into docker's config, podman's auth.json or credentials.references"
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return "has more than scheme, host and port"
	}
	return ""
}

// defaultURL is where a registry is reached unless the configuration says so.
func defaultURL(host string) string {
	if host == "docker.io" {
		return "https://registry-1.docker.io"
	}
	return "https://" + host
}

// expand replaces a leading ~ by the home directory.
func expand(path string) string {
	if path != "~" && !strings.HasPrefix(path, "~/") {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return filepath.Join(home, path[1:])
}
