package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/authinject"
	"pushproxy/blobcache"
	"pushproxy/forward"
	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/proxy"
)

const (
	// uploadIdle is how long an upload may lie before it is dropped.
	uploadIdle = 24 * time.Hour
	// The server's limits (trust.md S28). There is none on a whole request, since
	// no limit suits every layer; bodies have one on pauses.
	headerTimeout  = 10 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 64 << 10
	maxConnections = 1024
	readBuffer     = 2 << 20
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Take pushes on localhost and forward them",
		Long: "Take pushes on localhost and forward them to the registries that you are logged in to.\n" +
			"Push to localhost:5001/<registry>/<repository>:<tag>.",
		Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			log := newLogger(c.Log, cmd.ErrOrStderr())
			err := serve(cmd.Context(), c, log)
			if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				log.Info("stopped while it was starting")
				return nil
			}
			return err
		}),
	}
}

func newLogger(c LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	// The configuration was checked; the level is one that slog knows.
	_ = level.UnmarshalText([]byte(c.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// serve runs the doors until ctx ends.
func serve(ctx context.Context, c Config, log *slog.Logger) (err error) {
	if err := harden(c); err != nil {
		return err
	}
	d, err := listenDoors(c, log)
	if err != nil {
		return err
	}
	defer d.close()
	stores, err := openStores(ctx, c.DataDir, c.Storage, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.close()) }()
	record, audit, err := openAudit(c.DataDir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	cache := blobcache.New(stores.blobs, stores.blobs)
	meta := &metadata.DB{KV: stores.facts}
	forwarder := forward.New(cache, meta)
	upstreams, err := newUpstreams(c, stores.secret, forwarder)
	if err != nil {
		return err
	}
	numbers := newMetrics(c, stores, cache, upstreams)
	news := newHerald(c.Queue.Webhook, audit, log)
	queue, err := openQueue(ctx, c, stores, forwarder, upstreams, news)
	if err != nil {
		return err
	}
	secret := newRotatingSecret(c.DataDir, stores.secret, queue)
	upstreams.secret, upstreams.former, upstreams.quit = secret.get, secret.former, ctx.Done()
	registry := &proxy.Registry{
		Routes: upstreams.routes(), Target: upstreams.target, Queue: queueFor(c, queue), Async: upstreams.async,
		Cache: cache, Meta: meta, Forward: forwarder, Log: log, Audit: audit, Metrics: numbers.proxy, Traced: c.Tracing.traced,
	}
	counted, err := numbers.handler(queue)
	if err != nil {
		return err
	}
	if err := lock(ctx, c, registry, d.registry, stores.secret); err != nil {
		return err
	}
	if err := d.open(ctx, c, registry, upstreams, log); err != nil {
		return err
	}
	socket := listenAdmin(c.DataDir, log)
	log.Info("pushproxy is ready", append(d.fields(c), "registries", strings.Join(upstreams.names(ctx), " "), "queued", len(queue.Jobs()), stores.took)...)
	collector := newCollector(cache, stores.ballast, c.Cache, queue.Needed, log)
	collector.removed = registry.Recount
	orders := &admin{queue: queue, cache: cache, meta: meta, upstreams: upstreams, metrics: counted, collector: collector}
	defer openStatus(context.WithoutCancel(ctx), c, d, registry, stores, orders)()
	return beside(ctx, log, func() error { return runDoors(ctx, d, forwarder, log) },
		func(ctx context.Context) { stores.ballast.run(ctx, log) },
		func(ctx context.Context) { secret.watch(ctx, meta, log) },
		func(ctx context.Context) { watchdog(ctx, inTheClear(d.registry)) },
		func(ctx context.Context) { orders.work(ctx, socket, news) })
}

// beside runs tasks until work has returned, and then ends them.
func beside(ctx context.Context, log *slog.Logger, work func() error, tasks ...func(context.Context)) error {
	background, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, task := range tasks {
		running.Go(func() { steadily(background, log, task) })
	}
	err := work()
	end()
	running.Wait()
	return err
}

// openQueue reads the queued pushes and prepares what they are sent with.
func openQueue(ctx context.Context, c Config, s *stores, f *forward.Forwarder, u *upstreams, news *herald) (*forward.Queue, error) {
	var err error
	f.Uploads = u.uploads
	f.Faulted = func(fault *oci.Fault) {
		news.log.Error("pushproxy has a fault; what it was about can be tried again", "error", fault)
	}
	if f.Seal, err = authinject.Sealer(s.secret, "upload sessions"); err != nil {
		return nil, err
	}
	queue := &forward.Queue{Forward: f, Target: u.target, Policy: u.policy, Formerly: u.formerly, Report: news.report}
	damaged, err := queue.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("data_dir %s: the queued pushes cannot be read: %w", c.DataDir, err)
	}
	warnDamaged(news.log, damaged)
	return queue, nil
}

// queueFor returns the queue, or nil where nobody has the client's credential
// any more when the client has gone.
func queueFor(c Config, queue *forward.Queue) *forward.Queue {
	if c.Auth == string(proxy.AuthPassthrough) {
		return nil
	}
	return queue
}

// narrow is a listener whose connections keep little of a body in the kernel
// before it is read: what waits there, a client takes for sent.
type narrow struct{ net.Listener }

// Accept implements net.Listener.
func (n narrow) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		// The kernel's own choice works too, up to thirty times larger.
		_ = tcp.SetReadBuffer(readBuffer)
	}
	return conn, err
}

// listen opens every address. A machine without IPv6 goes without [::1]; an
// address that somebody else has is an error, since whoever holds it would get
// what clients send to localhost.
// The errors name the key and its flag.
func listen(key, flag string, addresses []string, log *slog.Logger) (listeners []net.Listener, err error) {
	for _, address := range addresses {
		l, listenErr := listenAt(address)
		switch {
		case listenErr == nil:
			listeners = append(listeners, l)
			continue
		case errors.Is(listenErr, syscall.EADDRNOTAVAIL) || errors.Is(listenErr, syscall.EAFNOSUPPORT):
			log.Warn("address left out: this machine does not have it", "address", address)
			continue
		}
		for _, open := range listeners {
			_ = open.Close()
		}
		return nil, notListening(key, flag, address, listenErr)
	}
	if len(listeners) == 0 {
		return nil, fmt.Errorf("%s: this machine has none of %s; choose another address with --%s", key, strings.Join(addresses, ", "), flag)
	}
	return listeners, nil
}

func addresses(listeners []net.Listener) (out []string) {
	for _, l := range listeners {
		out = append(out, l.Addr().String())
	}
	return out
}

// pushTo is how to write a name that ends here.
func pushTo(listeners []net.Listener) string {
	port := "5001"
	for _, l := range listeners {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			port = strconv.Itoa(tcp.Port)
			break
		}
	}
	return net.JoinHostPort("localhost", port) + "/" + (oci.Repo{Host: "<registry>", Name: "<repository>"}).String()
}
