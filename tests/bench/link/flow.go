package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	segment = 1448      // payload of a TCP segment on Ethernet with timestamps
	framed  = 1500      // the same segment with its headers, which take of the rate too
	initial = 10        // segments before the first acknowledgement (RFC 6928)
	most    = 16 << 10  // bytes of one packet: little enough that connections share the line evenly
	idle    = 256 << 10 // bytes of one packet where the line adds nothing
)

// wire is one direction of the line, shared by all connections.
type wire struct {
	mu    sync.Mutex
	delay time.Duration // one way
	rate  int64         // bytes per second, 0: no limit
	queue time.Duration // how far ahead of the line its queue may be
	free  time.Time     // when the line has sent all it was given
	bytes int64
}

func (w *wire) set(p Profile) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay, w.rate, w.queue = p.RTT/2, p.Rate, max(p.RTT, 5*time.Millisecond)
}

func (w *wire) stall(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free = later(w.free, time.Now()).Add(d)
}

func (w *wire) carried() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// latency returns the delay of one way.
func (w *wire) latency() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.delay
}

// send puts n bytes onto the line as soon as its queue has room and returns when they arrive.
func (w *wire) send(ctx context.Context, n int) (time.Time, error) {
	for {
		arrival, wait := w.offer(n)
		if wait <= 0 {
			return arrival, nil
		}
		if err := sleep(ctx, wait); err != nil {
			return time.Time{}, err
		}
	}
}

// offer takes n bytes, or says how long to wait before trying again.
func (w *wire) offer(n int) (arrival time.Time, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if backlog := w.free.Sub(now); backlog > w.queue {
		return time.Time{}, backlog - w.queue
	}
	w.free = later(w.free, now)
	if w.rate > 0 {
		w.free = w.free.Add(time.Duration(float64(n) * framed / segment / float64(w.rate) * float64(time.Second)))
	}
	w.bytes += int64(n)
	return w.free.Add(w.delay), 0
}

// packet is bytes under way, or the orderly end of a stream.
type packet struct {
	bytes   []byte
	arrival time.Time
}

// flow is one direction of one connection.
type flow struct {
	wire     *wire
	open     time.Time // when the handshake has ended
	window   int       // bytes that may be unacknowledged
	inFlight int
	acks     []ack // in order of time
}

type ack struct {
	at    time.Time
	bytes int
}

// read takes what src sends, at the pace of the line, until its orderly end, for which it returns nil.
func (f *flow) read(ctx context.Context, src net.Conn, out chan<- packet) error {
	f.window = initial * segment
	buf := make([]byte, idle)
	for {
		room, err := f.room(ctx)
		if err != nil {
			return err
		}
		n, err := src.Read(buf[:room])
		if n > 0 {
			if err := f.put(ctx, buf[:n], out); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return f.put(ctx, nil, out)
		}
		if err != nil {
			return err
		}
	}
}

func (f *flow) put(ctx context.Context, p []byte, out chan<- packet) error {
	if err := sleep(ctx, time.Until(f.open)); err != nil {
		return err
	}
	arrival, err := f.wire.send(ctx, len(p))
	if err != nil {
		return err
	}
	f.inFlight += len(p)
	f.acks = append(f.acks, ack{arrival.Add(f.wire.latency()), len(p)})
	select {
	case out <- packet{append([]byte(nil), p...), arrival}:
		return nil
	case <-ctx.Done():
		return errEnded
	}
}

// room waits until the window lets something be sent and returns how many bytes.
func (f *flow) room(ctx context.Context) (int, error) {
	for {
		if f.wire.latency() == 0 {
			f.window += f.inFlight
			f.inFlight, f.acks = 0, f.acks[:0]
			return idle, nil
		}
		now := time.Now()
		for len(f.acks) > 0 && !f.acks[0].at.After(now) {
			f.inFlight -= f.acks[0].bytes
			f.window += f.acks[0].bytes
			f.acks = f.acks[1:]
		}
		if room := f.window - f.inFlight; room > 0 {
			return min(room, most), nil
		}
		if err := sleep(ctx, f.acks[0].at.Sub(now)); err != nil {
			return 0, err
		}
	}
}

// deliver hands packets to dst when they arrive. It returns nil at the orderly end of the stream.
func deliver(ctx context.Context, packets <-chan packet, dst net.Conn) error {
	for p := range packets {
		if err := sleep(ctx, time.Until(p.arrival)); err != nil {
			return err
		}
		if len(p.bytes) == 0 {
			return nil
		}
		if _, err := dst.Write(p.bytes); err != nil {
			return err
		}
	}
	return errEnded
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
