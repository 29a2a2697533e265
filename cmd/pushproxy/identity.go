package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pushproxy/authinject"
	"pushproxy/proxy"
)

// CertificateConfig is what listeners beyond loopback show.
type CertificateConfig struct {
	CertFile string `mapstructure:"cert_file"`
	KeyFile  string `mapstructure:"key_file"`
}

// LimitsConfig is what one principal may take of this machine.
type LimitsConfig struct {
	Connections int   `mapstructure:"connections"`
	Uploads     int   `mapstructure:"uploads"`
	Requests    int   `mapstructure:"requests"`
	Bytes       int64 `mapstructure:"bytes"`
}

// PrincipalConfig is one principal beside local: a name that tokens or htpasswd
// accounts have, with credentials of its own and limits.
type PrincipalConfig struct {
	Name        string            `mapstructure:"name"`
	Allow       proxy.Scope       `mapstructure:"allow"`
	Credentials CredentialsConfig `mapstructure:"credentials"`
}

func (c *CredentialsConfig) expand() {
	c.DockerConfig = expand(c.DockerConfig)
	c.PodmanAuth = expand(c.PodmanAuth)
}

func (c *Config) fillIdentity() {
	c.Htpasswd = expand(c.Htpasswd)
	c.Certificate.CertFile = expand(c.Certificate.CertFile)
	c.Certificate.KeyFile = expand(c.Certificate.KeyFile)
	for i := range c.Principals {
		p := &c.Principals[i].Credentials
		p.expand()
		if p.HelperTimeout == 0 {
			p.HelperTimeout = c.Credentials.HelperTimeout
		}
	}
}

func (c *Config) checkIdentity(say sayFunc, oneOf func(key, value string, allowed ...string)) {
	oneOf("auth", c.Auth, string(proxy.AuthAuto), string(proxy.AuthToken), string(proxy.AuthHtpasswd), string(proxy.AuthPassthrough), string(proxy.AuthNone))
	switch byFile := c.Auth == string(proxy.AuthHtpasswd); {
	case byFile && c.Htpasswd == "":
		say("htpasswd: auth: htpasswd needs the file of accounts here (htpasswd -B)")
	case !byFile && c.Htpasswd != "":
		say("htpasswd: it is the file of auth: htpasswd, and auth is %s", c.Auth)
	}
	if len(c.Listen) == 0 {
		say("listen: at least one address is needed, such as 127.0.0.1:5001")
	}
	for _, address := range c.Listen {
		if why := c.badListener(address); why != "" {
			say("listen: %q %s", address, why)
		}
	}
	for _, host := range c.Hosts {
		if !hostExp.MatchString(host) || strings.Contains(host, ":") {
			say("hosts: %q is not a host name, without a port", host)
		}
	}
	if (c.Certificate.CertFile == "") != (c.Certificate.KeyFile == "") {
		say("certificate: cert_file and key_file belong together")
	}
	for _, limit := range []struct {
		key      string
		n, least int64
	}{
		{"connections", int64(c.Limits.Connections), 0}, {"uploads", int64(c.Limits.Uploads), 1},
		{"requests", int64(c.Limits.Requests), 1}, {"bytes", c.Limits.Bytes, 0},
	} {
		if limit.n < limit.least {
			say("limits.%s: %d is not %d or more", limit.key, limit.n, limit.least)
		}
	}
	seen := []string{proxy.Local}
	for i, p := range c.Principals {
		key := fmt.Sprintf("principals[%d]", i)
		if !proxy.ValidPrincipal(p.Name) || slices.Contains(seen, p.Name) {
			say("%s.name: %q is not a new name of lower-case letters, digits, dots, dashes and underscores", key, p.Name)
		}
		seen = append(seen, p.Name)
		if err := p.Allow.Validate(); err != nil {
			say("%s.allow: %v", key, err)
		}
		for j, r := range p.Credentials.References {
			r.check(fmt.Sprintf("%s.credentials.references[%d]", key, j), say)
		}
	}
}

// badListener returns what is wrong with a listener's address.
func (c *Config) badListener(address string) string {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return "is not unix: and an absolute path"
		}
		return ""
	}
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil || port == "":
		return "is not host:port, such as 127.0.0.1:5001 or [::1]:5001"
	case onLoopback(host):
		return ""
	case host != "" && net.ParseIP(host) == nil:
		return "is not a loopback address, nor another address of this machine in numbers"
	case c.Auth == string(proxy.AuthNone):
		return "is not a loopback address: with auth: none everybody in the network would act with your credentials; choose another auth"
	case c.Certificate.CertFile == "":
		return "is not a loopback address: tokens and images would pass the network in the clear; name a certificate (certificate.cert_file and key_file)"
	}
	return ""
}

// onLoopback reports whether a listener's host is this machine alone.
func onLoopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// lock makes the door open to those that the configuration lets in, by the names
// that it is known by, as far as the limits go.
func lock(ctx context.Context, c Config, door *proxy.Registry, listeners []net.Listener, secret authinject.Secret) (err error) {
	if door.Guard, err = proxy.NewGuard(append(addresses(listeners), named(c.Hosts, listeners)...)); err != nil {
		return err
	}
	if door.Principals, err = principals(c, secret, door.Log); err != nil {
		return err
	}
	door.Limits = proxy.NewLimits(c.Limits.Uploads, c.Limits.Requests, c.Limits.Bytes)
	door.Limits.Connections = c.Limits.Connections
	return door.Count(ctx)
}

// principals is who may call, as the configuration says.
func principals(c Config, secret authinject.Secret, log *slog.Logger) (*proxy.Principals, error) {
	p := &proxy.Principals{
		Auth: proxy.Auth(c.Auth), Tokens: tokens(c), UID: os.Geteuid(), Secret: secret, Allow: map[string]proxy.Scope{},
		RootIsLocal: aloneHere(os.Geteuid()),
	}
	for _, principal := range c.Principals {
		if principal.Allow.Restricts() {
			p.Allow[principal.Name] = principal.Allow
		}
	}
	if _, err := p.Tokens.List(); err != nil {
		return nil, err
	}
	switch p.Auth {
	case proxy.AuthHtpasswd:
		accounts, err := proxy.OpenAccounts(c.Htpasswd)
		if err != nil {
			return nil, fmt.Errorf("htpasswd: %w", err)
		}
		p.Accounts = accounts
	case proxy.AuthNone:
		log.Warn("auth is none: every user and program of this machine, and every container that reaches its loopback addresses, pushes and pulls with your credentials")
	case proxy.AuthAuto:
		if !p.RootIsLocal && p.UID != 0 {
			log.Info("more than one person may use this machine: dockerd needs a token to push here (pushproxy login)")
		}
	}
	return p, nil
}

// tokens are kept beside the databases, where commands can change them while the
// program runs.
func tokens(c Config) *proxy.Tokens {
	return &proxy.Tokens{File: filepath.Join(c.DataDir, "tokens.json")}
}

// loopback returns what is wrong with the address of a listener that has to be on
// loopback.
func loopback(address string) string {
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil || port == "":
		return "is not host:port, such as 127.0.0.1:5002 or [::1]:5002"
	case !onLoopback(host):
		return "is not a loopback address: only 127.0.0.1, [::1] and localhost are allowed"
	}
	return ""
}

// alone reports whether a listener is reached from this machine alone.
func alone(l net.Listener) bool {
	tcp, ok := l.Addr().(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// secured puts TLS before the listeners that others can reach.
func secured(c Config, listeners []net.Listener) ([]net.Listener, error) {
	out := slices.Clone(listeners)
	for i, l := range out {
		if _, tcp := l.Addr().(*net.TCPAddr); !tcp || alone(l) {
			continue
		}
		pair, err := tls.LoadX509KeyPair(c.Certificate.CertFile, c.Certificate.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		if err := proxy.Private(c.Certificate.KeyFile); err != nil {
			return nil, fmt.Errorf("certificate.key_file: %w", err)
		}
		out[i] = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	return out, nil
}
