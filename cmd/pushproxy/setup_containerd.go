package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// The lines around what is put into a hosts.toml that the user wrote.
const (
	blockBegin = "# >>> pushproxy: written by `pushproxy setup`"
	blockEnd   = "# <<< pushproxy"
)

// planContainerd sends the real names of registries to the registry door, for
// pushes too. containerd 2.3 and newer name the registry beside the repository
// (?ns=); the path says it to older ones.
func planContainerd(p *place) (plan, error) {
	made := plan{}
	dir := "/etc/containerd/certs.d"
	if !p.system {
		dir = filepath.Join(p.home, ".config/containerd/certs.d")
	}
	for _, host := range p.registries {
		block := p.hostBlock(host)
		made.files = append(made.files, change{
			path: filepath.Join(dir, host, "hosts.toml"), mode: 0o644,
			why:     "names below " + host + " go to the registry door, pushes too; pulls go on without it when it does not answer",
			content: func(old []byte) ([]byte, error) { return hostsFile(host, string(old), block) },
		})
	}
	made.note("ctr takes the directory as an option (--hosts-dir %s); nerdctl looks there by itself; Kubernetes' part of containerd needs", dir)
	made.note("  [plugins.\"io.containerd.cri.v1.images\".registry]\n    config_path = %q\nin /etc/containerd/config.toml. Nothing is restarted.", dir)
	return made, nil
}

// hostBlock is the table of the registry door for one registry.
func (p *place) hostBlock(host string) string {
	scheme := "http"
	if p.TLS == "auto" {
		scheme = "https"
	}
	at := fmt.Sprintf("%s://%s", scheme, p.localhost())
	override := ""
	if name := p.pathName(host); name != "" {
		at, override = at+"/v2/"+name, "  override_path = true\n"
	}
	block := fmt.Sprintf("%s\n[host.%q]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n%s", blockBegin, at, override)
	if scheme == "https" {
		block += fmt.Sprintf("  ca = %q\n", p.bundle)
	}
	return block + blockEnd + "\n"
}

// pathName is how a registry is written in a path: one with a port by its
// alias, or not at all.
func (p *place) pathName(host string) string {
	if _, _, err := net.SplitHostPort(host); err != nil {
		return host
	}
	for _, u := range p.Upstreams {
		if u.Host == host && len(u.Aliases) > 0 {
			return u.Aliases[0]
		}
	}
	return ""
}

// hostsFile puts the block before the first table of a hosts.toml, since the
// first host that may push gets the pushes.
func hostsFile(host, old, block string) ([]byte, error) {
	if old == "" {
		return []byte(fmt.Sprintf("server = %q\n\n%s", defaultURL(host), block)), nil
	}
	var b strings.Builder
	done := false
	for line := range strings.Lines(old) {
		if !done && strings.HasPrefix(strings.TrimSpace(line), "[") {
			b.WriteString(block)
			done = true
		}
		b.WriteString(line)
	}
	if !done {
		if !strings.HasSuffix(old, "\n") {
			b.WriteString("\n")
		}
		b.WriteString(block)
	}
	return []byte(b.String()), nil
}
