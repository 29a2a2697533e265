package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"pushproxy/blobcache"
	"pushproxy/proxy"
	"pushproxy/status"
)

// statusConnections is how many connections the status door takes at once.
const statusConnections = 512

// checkStatus says what is wrong with status_listen.
func (c *Config) checkStatus(say sayFunc) {
	for _, address := range c.StatusListen {
		if why := loopback(address); why != "" {
			say("status_listen: %q %s", address, why)
		}
	}
}

// chosenStatus reports whether a flag or variable says where the page is.
func chosenStatus(flags *pflag.FlagSet) bool {
	_, variable := os.LookupEnv("PUSHPROXY_STATUS_LISTEN")
	return variable || flags.Changed("status-listen")
}

// listenStatus opens the listeners of the status page. An address that somebody
// else has is an error where the configuration names it; where it is only the
// default, pushproxy goes without the page, since pushes do not need it.
func listenStatus(c Config, log *slog.Logger) (listeners []net.Listener, err error) {
	for _, address := range c.StatusListen {
		l, err := listenAt(address)
		switch {
		case err == nil:
			listeners = append(listeners, l)
			continue
		case errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT):
			log.Warn("address left out: this machine does not have it", "key", "status_listen", "address", address)
			continue
		}
		err = notListening("status_listen", "status-listen", address, err)
		if !c.statusChosen {
			log.Warn("no status page: "+err.Error(), "address", address)
			continue
		}
		for _, open := range listeners {
			_ = open.Close()
		}
		return nil, err
	}
	return listeners, nil
}

// openStatus follows the pushes from now on, and shows them on the status
// listeners and to whoever comes by the unix socket. It goes on while pushes end
// that were under way when the program was told to stop; dark ends it.
func openStatus(ctx context.Context, c Config, d *doors, registry *proxy.Registry, s *stores, orders *admin) (dark func()) {
	ctx, end := context.WithCancel(ctx)
	tracker, err := status.NewTracker(ctx, registry.Forward, orders.queue, filepath.Join(c.DataDir, "pushes.jsonl"))
	if err != nil {
		registry.Log.Warn("finished pushes are not kept, and earlier ones not shown", "error", err)
	}
	instance := strings.ToLower(rand.Text()[:8])
	traces, err := openTracing(ctx, c.Tracing, instance, registry.Log)
	if err != nil {
		registry.Log.Error("no traces", "error", err)
	}
	traces.follow(tracker)
	server := &status.Server{
		Version: version(), Instance: instance, Started: time.Now(), Tracker: tracker, Queue: orders.queue, Owner: proxy.Local,
		Upstreams: orders.upstreams.known,
		Usage:     func(ctx context.Context) (status.Store, error) { return usage(ctx, c, s, orders.cache) },
		Collect:   func(ctx context.Context) (any, error) { return orders.collector.collect(ctx, false) },
		Metrics:   orders.metrics,
	}
	handler := server.Handler()
	orders.status = seen(handler)
	var tasks sync.WaitGroup
	tasks.Go(func() { steadily(ctx, registry.Log, tracker.Run) })
	if err := serveStatus(ctx, c, d.status, registry, handler); err != nil {
		registry.Log.Error("no status page", "error", err)
	}
	return func() {
		end()
		tasks.Wait()
		traces.close()
	}
}

// seen is a handler for the unix socket, where nobody but the owner comes.
func seen(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(status.WithViewer(r.Context(), status.Viewer{Principal: proxy.Local, All: true})))
	})
}

// viewed tells the status room who looks: the owner of the instance sees
// everything, others what is their own.
func viewed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := proxy.CallerFrom(r.Context())
		v := status.Viewer{Principal: caller.Principal, All: caller.Principal == proxy.Local && len(caller.Scopes) == 0}
		next.ServeHTTP(w, r.WithContext(status.WithViewer(r.Context(), v)))
	})
}

// serveStatus answers on the listeners until ctx ends.
func serveStatus(ctx context.Context, c Config, listeners []net.Listener, registry *proxy.Registry, handler http.Handler) error {
	if len(listeners) == 0 {
		return nil
	}
	guard, err := proxy.NewGuard(append(addresses(listeners), named(c.Hosts, listeners)...))
	if err != nil {
		return err
	}
	server := newServer(&proxy.Pages{
		Guard: guard, Principals: registry.Principals, Handler: viewed(handler), Audit: registry.Audit, Log: registry.Log,
		Open: map[string]bool{"/livez": true, "/readyz": true},
	}, registry.Log)
	server.ConnContext = registry.Principals.ConnContext
	context.AfterFunc(ctx, func() { _ = server.Close() })
	slots := proxy.NewSlots(statusConnections, min(statusConnections/2, c.Limits.Connections), registry.Principals.Peer, registry.Log)
	for _, l := range listeners {
		go func() {
			if err := server.Serve(slots.Limit(l)); !errors.Is(err, http.ErrServerClosed) {
				registry.Log.Warn("the status page is not served any more", "address", l.Addr().String(), "error", err)
			}
		}()
	}
	return nil
}

// usage is how much there is in the store.
func usage(ctx context.Context, c Config, s *stores, cache *blobcache.Cache) (status.Store, error) {
	held, err := cache.Usage(ctx)
	if err != nil {
		return status.Store{}, err
	}
	disk, err := s.blobs.Disk()
	if err != nil {
		return status.Store{}, err
	}
	return status.Store{
		LiveBytes: held.Bytes, Blobs: int64(held.Blobs), Oldest: held.Oldest, Quota: size(c.Cache.Quota),
		DiskBytes: disk.Tables + disk.Log + disk.Files, FreeBytes: disk.Free, ReadOnly: disk.ReadOnly(),
	}, nil
}
