package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/disk"
	"pushproxy/proxy"
	"pushproxy/status"
)

const (
	// caSpare is how long before its end a CA is called a problem.
	caSpare = 30 * 24 * time.Hour
	// clockSpare is what tokens and certificates bear.
	clockSpare = time.Minute
	// diskSpare is what pushes can be expected to need; below half of it they are
	// refused.
	diskSpare = 1 << 30
)

// machineChecks are the links on this machine.
func machineChecks(cmd *cobra.Command, c Config, u *upstreams) []check {
	return []check{
		{"listener", c.listenerCheck},
		{"trust", func(ctx context.Context) (string, error) { return c.trustCheck(ctx, caNames(u.names(ctx))) }},
		{"client-config", func(context.Context) (string, error) { return clientCheck(cmd) }},
		{"disk", func(context.Context) (string, error) { return c.diskCheck() }},
	}
}

// listenerCheck sees whether a pushproxy answers at every door.
func (c Config) listenerCheck(ctx context.Context) (string, error) {
	for _, address := range slices.Concat(c.Listen, c.ForwardProxy.Listen) {
		// Sockets, and what others reach by TLS, are served by the same program.
		if loopback(address) != "" || !hasAddress(address) {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
		if err != nil {
			return "", err
		}
		answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			return "", fmt.Errorf("nothing answers at %s: start it with `pushproxy serve`, or let systemd do it (pushproxy setup systemd)", address)
		}
		_ = answer.Body.Close()
		if answer.Header.Get("Server") != proxy.ServerName {
			return "", fmt.Errorf("another program answers at %s: end it, or choose other addresses (listen, forward_proxy.listen)", address)
		}
	}
	return "pushproxy answers at " + strings.Join(slices.Concat(c.Listen, c.ForwardProxy.Listen), " "), nil
}

// hasAddress tells whether this machine has the address: one without IPv6 does
// without [::1], as serve does.
func hasAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// trustCheck looks at the CA, and at what the running pushproxy does with it.
func (c Config) trustCheck(ctx context.Context, names []string) (string, error) {
	if !c.wantsCA() {
		return "", fmt.Errorf("%w: neither TLS nor the forward-proxy door is on", errSkipped)
	}
	ca, err := proxy.OpenCA(c.caDir())
	if err != nil {
		return "", err
	}
	issuers, err := ca.Issuers()
	if err != nil {
		return "", err
	}
	if len(issuers) == 0 {
		return "", errors.New("there is no CA yet: the first `pushproxy serve` makes it")
	}
	until := issuers[0].NotAfter()
	for _, i := range issuers {
		if i.NotAfter().Before(until) {
			until = i.NotAfter()
		}
	}
	if time.Until(until) < caSpare {
		return "", fmt.Errorf("the CA ends on %s: `pushproxy ca renew`, then apply the set-up of each client again", until.Format(time.DateOnly))
	}
	for _, name := range names {
		if !slices.ContainsFunc(issuers, func(i *proxy.Issuer) bool { return i.Covers(name) }) {
			return "", fmt.Errorf("the CA does not cover %s yet: `pushproxy setup CLIENT --apply` for each client adds it", name)
		}
	}
	if c.TLS == "auto" {
		err := c.handshake(ctx, c.Listen[0], "localhost")
		var notThere *net.OpError
		if errors.As(err, &notThere) && notThere.Op == "dial" {
			return "", fmt.Errorf("%w against the running pushproxy: nothing answers at %s", errSkipped, c.Listen[0])
		}
		if err != nil {
			return "", fmt.Errorf("the registry door's certificate is not of the CA in %s: %w; is the running pushproxy another one (data_dir)?", ca.Bundle(), err)
		}
	}
	return fmt.Sprintf("the CA in %s is good until %s", ca.Bundle(), until.Format(time.DateOnly)), nil
}

// handshake verifies the certificate at an address as a client does that was
// set up.
func (c Config) handshake(ctx context.Context, address, name string) error {
	roots, err := c.roots()
	if err != nil {
		return err
	}
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// roots are what a client trusts that was set up.
func (c Config) roots() (*x509.CertPool, error) {
	text, err := os.ReadFile(proxy.NewCA(c.caDir()).Bundle())
	if err != nil {
		return nil, errors.New("there is no CA yet: the first `pushproxy serve` makes it")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return roots, nil
}

// tunnelCheck pings a registry by its real name through the forward-proxy door.
func (c Config) tunnelCheck(ctx context.Context, host string) (string, error) {
	roots, err := c.roots()
	if err != nil {
		return "", err
	}
	door := &url.URL{Scheme: "http", Host: c.ForwardProxy.Listen[0]}
	client := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(door), TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("%s cannot be reached through %s: %w", host, door, err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Server") != proxy.ServerName {
		return "", fmt.Errorf("%s through %s answers %s: is the program there another one?", host, door, answer.Status)
	}
	return fmt.Sprintf("https://%s through %s ends here", host, door), nil
}

// clientCheck compares what set-ups wrote with what they would write now.
func clientCheck(cmd *cobra.Command) (string, error) {
	p, err := newPlace(cmd, "", "", false)
	if err != nil {
		return "", err
	}
	j, err := openJournal(p.journal())
	if err != nil {
		return "", err
	}
	clients := j.clients()
	if len(clients) == 0 {
		return fmt.Sprintf("no client is set up: push to %s/<registry>/<repository>, or see `pushproxy setup --help`", p.localhost()), nil
	}
	for _, client := range clients {
		p.client = client
		p.tool, _, _ = strings.Cut(client, userSuffix)
		p.system = os.Geteuid() == 0 && p.tool == client
		p.machineWide(j)
		made, remedy, err := planOf(p)
		if err != nil {
			return "", err
		}
		missing, err := j.missing(made, p)
		if err != nil {
			return "", err
		}
		if len(missing) > 0 {
			return "", fmt.Errorf("%s: %s; mend it with %s", client, strings.Join(missing, "; "), remedy)
		}
	}
	return "set up: " + strings.Join(clients, " "), nil
}

// planOf returns what the set-up of a client in the journal would do now.
func planOf(p *place) (made plan, remedy string, err error) {
	if p.client == systemTrust {
		made, _, err = p.planTrust()
		return made, "pushproxy ca install", err
	}
	for _, s := range setups {
		if s.name == p.tool {
			made, err = s.plan(p)
			return made, "pushproxy setup " + p.client + " --apply", err
		}
	}
	return made, "", fmt.Errorf("the journal names a set-up %q that is not known", p.client)
}

// open reports whether the registry answers without asking who it is.
func (r *reach) open(ctx context.Context) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.entry.URL+"/v2/", nil)
	if err != nil {
		return false
	}
	answer, err := r.transport.Base.RoundTrip(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// clock compares this machine's clock with the registry's.
func (r *reach) clock(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.entry.URL+"/v2/", nil)
	if err != nil {
		return "", err
	}
	answer, err := r.transport.Base.RoundTrip(request)
	if err != nil {
		// The next check says why.
		return "", fmt.Errorf("%w: the registry does not answer", errSkipped)
	}
	_ = answer.Body.Close()
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return "", fmt.Errorf("%w: the registry does not say what time it is", errSkipped)
	}
	off := time.Since(theirs).Round(time.Second)
	if off.Abs() > clockSpare {
		return "", fmt.Errorf("this machine's clock is %s from the registry's: tokens and certificates fail; set it (timedatectl set-ntp true)", off)
	}
	return "agrees with the registry's", nil
}

// diskCheck looks at the file system where blobs go, and the space that is left there.
func (c Config) diskCheck() (string, error) {
	dir := c.DataDir
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	warning, err := disk.FileSystem(dir)
	if err != nil {
		return "", err
	}
	free, err := freeBytes(dir)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errSkipped, err)
	}
	if free < diskSpare {
		return "", fmt.Errorf("%s has %s free, and uploads are refused before the disk is full: free some space, or choose another data_dir", dir, status.Bytes(free))
	}
	if warning != "" {
		return fmt.Sprintf("%s (%s free)", warning, status.Bytes(free)), nil
	}
	return fmt.Sprintf("%s has %s free", dir, status.Bytes(free)), nil
}
