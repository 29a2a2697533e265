package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"pushproxy/oci"
)

// errSilence is why there is no connection where nothing refuses one either.
var errSilence = errors.New("what is sent there gets no answer")

// connectFunc makes one connection.
type connectFunc func(ctx context.Context, network, address string) (net.Conn, error)

// race is how connections are tried side by side.
type race struct {
	patience time.Duration
	every    time.Duration // after which another attempt is made
	most     int           // at once
	kick     <-chan struct{}
}

type raced struct {
	conn net.Conn
	took time.Duration // from the beginning of the attempt that made it
	err  error
}

// race returns the first connection, or the first error that is not that time
// ran out.
func (connect connectFunc) race(ctx context.Context, network, address string, how race) raced {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results, running := make(chan raced), 0
	attempt := func() {
		if running >= how.most {
			return
		}
		running++
		go func() {
			began := time.Now()
			var conn net.Conn
			err := oci.Guarded(func() (err error) {
				conn, err = connect(ctx, network, address)
				return err
			})
			select {
			case results <- raced{conn, time.Since(began), err}:
			case <-ctx.Done():
				if err == nil {
					_ = conn.Close()
				}
			}
		}()
	}
	verdict, tick := time.NewTimer(how.patience), time.NewTicker(how.every)
	defer verdict.Stop()
	defer tick.Stop()
	attempt()
	for {
		select {
		case r := <-results:
			if !ranOut(r.err) {
				return r
			}
			running--
		case <-tick.C:
			attempt()
		case <-how.kick:
			attempt()
		case <-verdict.C:
			return raced{err: &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%w within %s", errSilence, how.patience)}}
		case <-ctx.Done():
			return raced{err: context.Cause(ctx)}
		}
	}
}

// ranOut reports whether nobody answered in time, be it a name server.
func ranOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
