package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"pushproxy/oci"
)

const (
	// MaxKey is the longest key, in bytes, that a KV takes.
	MaxKey = 4096
	// MaxValue is the largest value, in bytes, that a KV takes: the largest
	// manifest and its header.
	MaxValue = oci.MaxManifest + 64<<10
)

// ErrClosed is returned by every method of a KV after Close.
var ErrClosed = errors.New("metadata store is closed")

// Entry is a key and its value as Scan finds them.
type Entry struct {
	Key   string
	Value []byte
}

// KV is a small ordered store with compare-and-swap: badger in one process,
// Redis between several. Keys are at most MaxKey bytes; values are 1 to
// MaxValue bytes. Returned values belong to the caller, and values given are
// not kept. All methods may be called at once from many goroutines.
type KV interface {
	// Get returns the value under key, or nil when there is none. A value that
	// the store has but cannot read is empty and not nil.
	Get(ctx context.Context, key string) ([]byte, error)
	// Swap replaces old by new under key and reports whether old was there. A
	// nil old means that key must be absent, a nil new deletes it. When it
	// returns true the change survives a crash as far as the store can. After
	// an error the change may or may not have happened.
	Swap(ctx context.Context, key string, old, new []byte) (bool, error)
	// Scan yields the entries whose key begins with prefix in ascending order
	// of the keys' bytes. What changes meanwhile may be seen or not; what does
	// not change is seen exactly once. The body may call the store. After an
	// error nothing more is yielded.
	Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error]
	// Close releases the store.
	Close() error
}

// checkSwap enforces the limits of KV.
func checkSwap(key string, old, new []byte) error {
	switch {
	case key == "" || len(key) > MaxKey:
		return fmt.Errorf("metadata key has %d bytes, allowed are 1 to %d", len(key), MaxKey)
	case new != nil && (len(new) == 0 || len(new) > MaxValue):
		return fmt.Errorf("metadata value for %.64s has %d bytes, allowed are 1 to %d", key, len(new), MaxValue)
	case old == nil && new == nil:
		return fmt.Errorf("metadata swap of %.64s changes nothing", key)
	}
	return nil
}

// Memory is a KV that forgets everything on exit, for tests and for trying
// pushproxy out. The zero value is ready to use.
type Memory struct {
	mu     sync.Mutex
	values map[string][]byte
	closed bool
}

// Get implements KV.
func (m *Memory) Get(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	return bytes.Clone(m.values[key]), nil
}

// Swap implements KV.
func (m *Memory) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := checkSwap(key, old, new); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false, ErrClosed
	}
	value, found := m.values[key]
	if found != (old != nil) || !bytes.Equal(value, old) {
		return false, nil
	}
	if new == nil {
		delete(m.values, key)
		return true, nil
	}
	if m.values == nil {
		m.values = map[string][]byte{}
	}
	m.values[key] = bytes.Clone(new)
	return true, nil
}

// Scan implements KV.
func (m *Memory) Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		m.mu.Lock()
		var keys []string
		for key := range m.values {
			if strings.HasPrefix(key, prefix) {
				keys = append(keys, key)
			}
		}
		closed := m.closed
		m.mu.Unlock()
		if closed {
			yield(Entry{}, ErrClosed)
			return
		}
		slices.Sort(keys)
		for _, key := range keys {
			value, err := m.Get(ctx, key)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if value != nil && !yield(Entry{key, value}, nil) {
				return
			}
		}
	}
}

// Close implements KV.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values, m.closed = nil, true
	return nil
}
