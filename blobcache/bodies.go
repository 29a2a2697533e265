package blobcache

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Bodies stores the numbered chunks of uploads. An upload's name is its id, 32
// hexadecimal digits; a chunk is at most ChunkSize and 32 bytes, never empty, and
// opaque to the store; numbers end at 1<<23 - 1. Methods may be called from many
// goroutines, but an upload has one writer. blobcachetest.TestBodies is the
// contract in code.
type Bodies interface {
	// PutChunk stores p as chunk n of the upload, in place of what was there,
	// all of it or nothing. p is the caller's again on return. It fails with
	// ErrFull when storing it could fill the disk.
	PutChunk(ctx context.Context, upload string, n int, p []byte) error
	// GetChunk returns chunk n, in buf's memory where it fits. The error is
	// ErrUnknown when there is no such chunk, and ErrDamaged when there is one
	// that cannot be read; a store need not notice changed bytes.
	GetChunk(ctx context.Context, upload string, n int, buf []byte) ([]byte, error)
	// Drop forgets every chunk of the uploads and gives their space back.
	// Uploads without chunks are no error. It may take seconds.
	Drop(ctx context.Context, uploads ...string) error
	// Barrier returns when the chunks that were stored of the uploads before
	// it was called survive a power cut.
	Barrier(ctx context.Context, uploads ...string) error
	// Uploads yields each upload that has a chunk, once, in no given order.
	// It may miss uploads whose first chunk comes during the iteration. After
	// an error it ends.
	Uploads(ctx context.Context) iter.Seq2[string, error]
}

// Index stores small records under keys and changes each atomically.
// blobcachetest.TestIndex is the contract in code.
type Index interface {
	// Get returns the record, the caller's own copy, or nil when there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Swap replaces the record by new if it is old, and reports whether it
	// was. An empty old stands for no record; an empty new deletes. It fails
	// with ErrFull when new is longer than old and could fill the disk.
	Swap(ctx context.Context, key string, old, new []byte) (bool, error)
	// SwapAll is the Swap of several records: all of them or none, also after
	// a crash.
	SwapAll(ctx context.Context, changes ...Change) (bool, error)
	// Scan yields the records whose keys start with prefix, which is not
	// empty, in the order of the keys. Records may change meanwhile: each is as it was at some time
	// during the scan. After an error it ends.
	Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error]
}

// Change is what a SwapAll does to one record. No two of them have one key.
type Change struct {
	Key string
	Old []byte // empty: there is no record
	New []byte // empty: the record is deleted
}

// Entry is a record of an Index.
type Entry struct {
	Key   string
	Value []byte
}

// Joint is a store that is Bodies and Index and can do a step of both at the
// cost of one.
type Joint interface {
	Bodies
	Index
	// PutAndSwap is PutChunk and then, if that succeeds, SwapAll. The chunk may be
	// stored although the changes were not made.
	PutAndSwap(ctx context.Context, upload string, n int, p []byte, changes ...Change) (bool, error)
}

// Memory is Bodies and Index in memory: for tests, and the measure of what the
// other stores must do. Make it with NewMemory.
type Memory struct {
	mu      sync.Mutex
	chunks  map[string]map[int][]byte
	records map[string][]byte
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{chunks: make(map[string]map[int][]byte), records: make(map[string][]byte)}
}

// PutChunk implements Bodies.
func (m *Memory) PutChunk(ctx context.Context, upload string, n int, p []byte) error {
	if err := checkChunk(upload, n, p); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chunks[upload] == nil {
		m.chunks[upload] = make(map[int][]byte)
	}
	m.chunks[upload][n] = bytes.Clone(p)
	return nil
}

// GetChunk implements Bodies.
func (m *Memory) GetChunk(ctx context.Context, upload string, n int, buf []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.chunks[upload][n]
	if !ok {
		return nil, fmt.Errorf("chunk %s: %w", chunkName(upload, n), ErrUnknown)
	}
	return append(buf[:0], p...), ctx.Err()
}

// Drop implements Bodies.
func (m *Memory) Drop(ctx context.Context, uploads ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, upload := range uploads {
		delete(m.chunks, upload)
	}
	return nil
}

// Barrier implements Bodies; memory survives nothing, so it does nothing.
func (m *Memory) Barrier(ctx context.Context, _ ...string) error { return ctx.Err() }

// Uploads implements Bodies.
func (m *Memory) Uploads(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		m.mu.Lock()
		uploads := slices.Collect(maps.Keys(m.chunks))
		m.mu.Unlock()
		for _, upload := range uploads {
			if !yield(upload, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield("", err)
		}
	}
}

// Get implements Index.
func (m *Memory) Get(ctx context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.records[key]), ctx.Err()
}

// Swap implements Index.
func (m *Memory) Swap(ctx context.Context, key string, old, new []byte) (bool, error) {
	return m.SwapAll(ctx, Change{key, old, new})
}

// SwapAll implements Index.
func (m *Memory) SwapAll(ctx context.Context, changes ...Change) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, change := range changes {
		if !bytes.Equal(m.records[change.Key], change.Old) {
			return false, nil
		}
	}
	for _, change := range changes {
		if len(change.New) == 0 {
			delete(m.records, change.Key)
		} else {
			m.records[change.Key] = bytes.Clone(change.New)
		}
	}
	return true, nil
}

// PutAndSwap implements Joint.
func (m *Memory) PutAndSwap(ctx context.Context, upload string, n int, p []byte, changes ...Change) (bool, error) {
	if err := m.PutChunk(ctx, upload, n, p); err != nil {
		return false, err
	}
	return m.SwapAll(ctx, changes...)
}

// Scan implements Index.
func (m *Memory) Scan(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		m.mu.Lock()
		var entries []Entry
		for key, value := range m.records {
			if strings.HasPrefix(key, prefix) {
				entries = append(entries, Entry{Key: key, Value: bytes.Clone(value)})
			}
		}
		m.mu.Unlock()
		slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Entry{}, err)
		}
	}
}

// checkChunk returns an error when a store must not take the chunk.
func checkChunk(upload string, n int, p []byte) error {
	if _, ok := parseID(upload); !ok {
		return fmt.Errorf("%q is not the name of an upload", upload)
	}
	switch {
	case n < 0 || n > maxChunk:
		return fmt.Errorf("upload %s: there is no chunk %d", upload, n)
	case len(p) == 0:
		return fmt.Errorf("chunk %s is empty", chunkName(upload, n))
	case len(p) > maxSealed:
		return fmt.Errorf("chunk %s has %d bytes, more than %d", chunkName(upload, n), len(p), maxSealed)
	}
	return nil
}
