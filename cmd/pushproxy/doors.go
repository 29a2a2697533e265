package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"pushproxy/proxy"
	"pushproxy/upstream"
)

// maxStreams is how many requests one HTTP/2 connection may have under way.
const maxStreams = 128

// ForwardProxyConfig is the forward-proxy door.
type ForwardProxyConfig struct {
	Listen       []string `mapstructure:"listen"`
	TunnelOthers bool     `mapstructure:"tunnel_others"`
}

func (c ForwardProxyConfig) check(say sayFunc) {
	for _, address := range c.Listen {
		if why := loopback(address); why != "" {
			say("forward_proxy.listen: %q %s", address, why)
		}
	}
}

// caDir is where an installation's CA is.
func (c Config) caDir() string { return filepath.Join(c.DataDir, "ca") }

// wantsCA reports whether anything of the configuration needs certificates.
func (c Config) wantsCA() bool { return c.TLS == "auto" || len(c.ForwardProxy.Listen) > 0 }

// doors are what serve answers on.
type doors struct {
	registry, forward []net.Listener
	status            []net.Listener
	api               *http.Server // the registry door, and what is inside tunnels
	gate              *gate        // … behind it
	proxy             *http.Server // the forward-proxy door; nil where there is none
	mitm              *proxy.Mitm
}

// listenDoors opens the listeners of both doors, or takes those that a service
// manager opened.
func listenDoors(c Config, log *slog.Logger) (*doors, error) {
	given, err := inherited()
	if err != nil {
		return nil, err
	}
	d := &doors{registry: given[socketRegistry], forward: given[socketForward]}
	if len(d.registry) == 0 {
		if d.registry, err = listen("listen", "listen", c.Listen, log); err != nil {
			d.close()
			return nil, err
		}
	}
	if len(d.forward) == 0 && len(c.ForwardProxy.Listen) > 0 {
		if d.forward, err = listen("forward_proxy.listen", "forward-proxy-listen", c.ForwardProxy.Listen, log); err != nil {
			d.close()
			return nil, err
		}
	}
	if d.status, err = listenStatus(c, log); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// fields are where pushproxy is, for the log.
func (d *doors) fields(c Config) []any {
	return []any{
		"version", version(), "listen", strings.Join(addresses(d.registry), " "), "tls", c.TLS, "forward_proxy", strings.Join(addresses(d.forward), " "),
		"status", strings.Join(addresses(d.status), " "), "push_to", pushTo(d.registry), "data_dir", c.DataDir,
	}
}

// close closes the listeners; a server that ran has closed them already.
func (d *doors) close() {
	for _, l := range slices.Concat(d.registry, d.forward, d.status) {
		_ = l.Close()
	}
}

// open readies the servers behind the listeners.
func (d *doors) open(ctx context.Context, c Config, registry *proxy.Registry, u *upstreams, log *slog.Logger) error {
	// The limit comes first: the server must see the TLS connections themselves.
	slots := func() *proxy.Slots {
		return proxy.NewSlots(maxConnections, c.Limits.Connections, registry.Principals.Peer, log)
	}
	registrySlots, forwardSlots := slots(), slots()
	for i, l := range d.registry {
		d.registry[i] = registrySlots.Limit(narrow{l})
	}
	for i, l := range d.forward {
		// The connections of tunnels count here until they end.
		d.forward[i] = forwardSlots.Limit(narrow{l})
	}
	var err error
	if d.registry, err = secured(c, d.registry); err != nil {
		return err
	}
	d.gate = newGate(registry)
	d.api = newServer(d.gate, log)
	d.api.ConnState = registry.Limits.ConnState
	d.api.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return registry.Principals.ConnContext(proxy.ConnContext(ctx, conn), conn)
	}
	if !c.wantsCA() && len(d.forward) == 0 {
		return nil
	}
	ca, err := proxy.OpenCA(c.caDir())
	if err != nil {
		return err
	}
	added, err := ca.Cover(caNames(u.names(ctx))...)
	if err != nil {
		return err
	}
	if len(added) > 0 {
		log.Info("the CA was made, or covers further names now; it is trusted by nothing until a client's set-up says so (pushproxy setup)", "names", strings.Join(added, " "), "file", ca.Bundle())
	}
	if c.TLS == "auto" {
		for i, l := range d.registry {
			if alone(l) {
				d.registry[i] = proxy.WithTLS(l, ca)
			}
		}
	}
	if len(d.forward) == 0 {
		return nil
	}
	options := proxy.MitmOptions{Routes: registry.Routes, CA: ca, Log: log, Principals: registry.Principals, Audit: registry.Audit}
	if c.ForwardProxy.TunnelOthers {
		options.Dial = upstream.DialPublic
	}
	d.mitm = proxy.NewMitm(options)
	d.proxy = newServer(d.mitm, log)
	d.proxy.ConnContext = registry.Principals.ConnContext
	return nil
}

// caNames are the names that the CA is made for: the registry door's own and the
// registries', which a client names without their port.
func caNames(registries []string) []string {
	names := []string{"localhost"}
	for _, name := range registries {
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		names = append(names, strings.Trim(name, "[]"))
	}
	return names
}

// newServer returns a server with the limits that every door has.
func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// serve answers on all listeners until ctx ends or one of them fails.
func (d *doors) serve(ctx context.Context) error {
	failed := make(chan error, len(d.registry)+len(d.forward)+1)
	for _, l := range d.registry {
		go func() { failed <- d.api.Serve(l) }()
	}
	if d.proxy != nil {
		go func() { failed <- d.api.Serve(d.mitm.Tunnels()) }()
	}
	for _, l := range d.forward {
		go func() { failed <- d.proxy.Serve(l) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// stop lets requests under way finish, inside tunnels too, until ctx ends. Then
// their connections are closed, and they have a moment to put down what came.
func (d *doors) stop(ctx context.Context) error {
	var both sync.WaitGroup
	var errs [2]error
	if d.proxy != nil {
		// Tunnels to others have no end of their own that could be waited for.
		d.mitm.Close()
		both.Go(func() { errs[0] = d.proxy.Shutdown(ctx) })
	}
	both.Go(func() { errs[1] = d.api.Shutdown(ctx) })
	both.Wait()
	err := errors.Join(errs[:]...)
	if err != nil {
		_ = d.api.Close()
		if d.proxy != nil {
			_ = d.proxy.Close()
		}
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointFor)
	defer cancel()
	return errors.Join(err, d.gate.close(rest))
}
