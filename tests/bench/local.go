package main

import (
	"context"
	"slices"
)

// local is what pushproxy is held against distribution for without any client of others: how fast it takes in and gives
// out blobs, and what that costs.
func (b *bench) local() []scenario {
	big, middle, small := b.size(1<<30), b.size(64<<20), b.size(2000)
	return []scenario{
		b.ingest("ingest 1 GiB", 1, big, 1),
		b.ingest("ingest 16", 16, middle, 4),
		b.ingest("ingest 2000", small, 16<<10, 8),
		b.heads(small),
		b.serve(16, middle),
		b.memory("memory 64", middle),
		b.memory("memory 512", b.size(512<<20)),
	}
}

// contestants are pushproxy with each of the storages that were asked for, and distribution before them.
func (b *bench) contestants(s side) []side {
	sides := []side{{name: "distribution", server: true}}
	for _, storage := range b.storages() {
		if slices.Contains(b.unknown, storage) {
			continue
		}
		s.name, s.storage, s.proxied = storage, storage, true
		sides = append(sides, s)
	}
	return sides
}

// ingest is uploads that are timed until the last is answered. pushproxy forwards what it takes in, as it always does, to a
// sink at the end of the long line: that takes next to none of the machine, and no client waits for it.
func (b *bench) ingest(name string, n, size, workers int) scenario {
	return scenario{
		name:  name,
		sides: b.contestants(side{sink: true, line: true}),
		begin: func(_ context.Context, s *scene) (err error) {
			s.blobs, err = newBlobs(n, size)
			return err
		},
		steps: []step{{
			name: name, bytes: int64(n) * int64(size), count: n,
			run: func(ctx context.Context, s *scene) error { return s.wire(workers).upload(ctx, "acme/app", s.blobs) },
		}},
	}
}

// serve is an image that is taken in and forwarded to a registry on loopback, and then read.
func (b *bench) serve(n, size int) scenario {
	bytes := int64(n) * int64(size)
	return scenario{
		name:  "serve",
		sides: b.contestants(side{}),
		begin: func(_ context.Context, s *scene) (err error) {
			s.blobs, err = newBlobs(n, size)
			return err
		},
		steps: []step{
			{name: "forward", bytes: bytes, run: func(ctx context.Context, s *scene) error { return s.pushBlobs(ctx, 4) }},
			{name: "pull", bytes: bytes, run: func(ctx context.Context, s *scene) error {
				return s.wire(4).pull(ctx, "acme/app", s.blobs)
			}},
		},
	}
}

// heads asks for each of many small blobs whether it is there, several times. The targets were set against a distribution
// that keeps nothing in memory: that one is a contestant more.
func (b *bench) heads(n int) scenario {
	count := 4 * n
	return scenario{
		name:  "HEAD",
		sides: append([]side{{name: "uncached distribution", server: true, uncached: true}}, b.contestants(side{})...),
		begin: func(ctx context.Context, s *scene) (err error) {
			if s.blobs, err = newBlobs(n, 16<<10); err != nil {
				return err
			}
			return s.pushBlobs(ctx, 8)
		},
		steps: []step{{
			name: "head", count: count,
			run: func(ctx context.Context, s *scene) error { return s.wire(8).head(ctx, "acme/app", s.blobs, count) },
		}},
	}
}

// memory is eight uploads at once, taken in and forwarded.
func (b *bench) memory(name string, size int) scenario {
	const uploads = 8
	return scenario{
		name:  name,
		sides: []side{{name: "pushproxy", proxied: true, storage: b.storages()[0]}},
		begin: func(_ context.Context, s *scene) (err error) {
			s.blobs, err = newBlobs(uploads, size)
			return err
		},
		steps: []step{{
			name: name, bytes: uploads * int64(size),
			run: func(ctx context.Context, s *scene) error { return s.pushBlobs(ctx, uploads) },
		}},
	}
}

// pushBlobs uploads the scene's blobs and then a manifest that names them: when it returns the upstream has everything.
func (s *scene) pushBlobs(ctx context.Context, workers int) error {
	w := s.wire(workers)
	if err := w.upload(ctx, "acme/app", s.blobs); err != nil {
		return err
	}
	return w.manifest(ctx, "acme/app", "1", s.blobs)
}
