package forward

import (
	"errors"

	"golang.org/x/sync/errgroup"

	"pushproxy/oci"
)

// guarded returns work's error. One that panics must not end the others: what
// is known of it is told to Faulted.
func (f *Forwarder) guarded(work func() error) error {
	err := oci.Guarded(work)
	if fault := (*oci.Fault)(nil); errors.As(err, &fault) {
		f.Metrics.faulted()
		if f.Faulted != nil {
			f.Faulted(fault)
		}
	}
	return err
}

// together is group.Go for work that may panic.
func (f *Forwarder) together(group *errgroup.Group, work func() error) {
	group.Go(func() error { return f.guarded(work) })
}

// aside runs work in a goroutine of its own, which f.running counts already.
func (f *Forwarder) aside(work func()) {
	go func() {
		defer f.running.Done()
		// Whoever is to know of it was told.
		_ = f.guarded(func() error {
			work()
			return nil
		})
	}()
}
