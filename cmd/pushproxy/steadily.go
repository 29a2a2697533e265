package main

import (
	"context"
	"log/slog"
	"time"

	"pushproxy/oci"
)

// again is how long a task rests after a fault.
const again = time.Second

// steadily runs a task until it returns. One that panics begins again: it must
// end neither the program nor what it is there for.
func steadily(ctx context.Context, log *slog.Logger, task func(context.Context)) {
	for {
		err := oci.Guarded(func() error {
			task(ctx)
			return nil
		})
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Error("a task of pushproxy failed and begins again", "error", err)
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return
		}
	}
}
