package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"pushproxy/forward"
	"pushproxy/oci"
)

const (
	// A stop takes 25 seconds at most: drainFor for what is under way to finish,
	// checkpointFor for what is cut short to be put down, the rest to close the
	// databases.
	drainFor      = 17 * time.Second
	checkpointFor = 4 * time.Second
)

// runDoors answers until ctx ends, and then lets what is under way finish.
func runDoors(ctx context.Context, d *doors, forwarder *forward.Forwarder, log *slog.Logger) error {
	// The listeners are open: who connects now is answered in a moment.
	if err := notify("READY=1"); err != nil {
		return err
	}
	err := d.serve(ctx)
	_ = notify("STOPPING=1")
	log.Info("stopping; pushes under way may finish", "for_at_most", drainFor)
	began := time.Now()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	if stopErr := d.stop(stop); stopErr != nil {
		log.Warn("some requests did not finish; clients can push again and what was received is kept")
	}
	if closeErr := forwarder.Close(stop); closeErr != nil {
		log.Warn("some uploads did not finish; the next push sends them again from the cache")
	}
	log.Info("stopped", "took", time.Since(began).Round(time.Millisecond))
	return err
}

// gate counts the requests that a handler has under way, and lets nobody in once
// it is shut: what they work on is about to be closed.
type gate struct {
	http.Handler

	mu   sync.Mutex
	shut bool
	in   int
	left chan struct{} // closed when the gate is shut and the last one has left
}

func newGate(h http.Handler) *gate { return &gate{Handler: h, left: make(chan struct{})} }

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	shut := g.shut
	if !shut {
		g.in++
	}
	g.mu.Unlock()
	if shut {
		oci.Write(w, forward.ErrClosed)
		return
	}
	defer g.leave()
	g.Handler.ServeHTTP(w, r)
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in--
	if g.shut && g.in == 0 {
		close(g.left)
	}
}

// close shuts the gate and waits for those who are in, until ctx ends.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	if !g.shut {
		g.shut = true
		if g.in == 0 {
			close(g.left)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
