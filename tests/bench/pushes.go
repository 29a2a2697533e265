package main

import (
	"context"
	"fmt"
	"time"
)

const (
	smallLayer = 64 << 10 // bytes of the layer that "one new small layer" adds
	stallFor   = 30 * time.Second
)

// scenarios returns what may have to be run, with the clients that the needed steps push with.
func (b *bench) scenarios(ctx context.Context, needed map[string]bool) []scenario {
	var all []scenario
	if needed["floor"] {
		all = append(all, b.floor())
	}
	for _, name := range clientNames() {
		for _, line := range []bool{true, false} {
			sc := b.pushes(name, line)
			if b.wanted(ctx, sc, needed, name) {
				all = append(all, sc)
			}
		}
	}
	for _, name := range []string{"docker", "containerd"} {
		sc := b.stall(name)
		if b.wanted(ctx, sc, needed, name) {
			all = append(all, sc)
		}
	}
	return append(all, b.local()...)
}

// wanted tells whether a scenario is needed and its client can be used.
func (b *bench) wanted(ctx context.Context, sc scenario, needed map[string]bool, name string) bool {
	for _, st := range sc.steps {
		if !needed[st.name] {
			continue
		}
		_, err := b.client(ctx, name)
		if err != nil {
			b.remark("left out: pushes by %s: %v", name, err)
		}
		return err == nil
	}
	return false
}

// pushes is a client's first push of an image and what may follow it, straight and through pushproxy.
func (b *bench) pushes(name string, line bool) scenario {
	where := "loopback"
	if line {
		where = "line"
	}
	sc := scenario{
		name: name + " over " + where,
		sides: []side{
			{name: "direct", line: line},
			{name: "pushproxy", proxied: true, storage: b.storages()[0], line: line},
		},
		begin: func(ctx context.Context, s *scene) error { return s.picture(ctx, name) },
	}
	one := func(what string, bytes int64, number int, repo, tag string) step {
		return step{
			name:  name + " " + where + " " + what,
			bytes: bytes,
			prepare: func(ctx context.Context, s *scene) error {
				if number == len(s.pictures) {
					if err := s.grown(ctx, name); err != nil {
						return err
					}
				}
				return b.clients[name].tag(ctx, s.pictures[number], s.ref(repo+":"+tag))
			},
			run: func(ctx context.Context, s *scene) error {
				return b.clients[name].push(ctx, s.pictures[number], s.ref(repo+":"+tag))
			},
			check: func(ctx context.Context, s *scene) error { return s.verify(ctx, repo, tag) },
		}
	}
	sc.steps = append(sc.steps, one("first", imageBytes(), 0, "acme/app", "1"))
	if line {
		sc.steps = append(sc.steps, one("repeat", 0, 0, "acme/app", "1"), one("layer", 0, 1, "acme/app", "2"), one("other", 0, 0, "acme/other", "1"))
	}
	return sc
}

// picture makes the scene's image and loads it into the client.
func (s *scene) picture(ctx context.Context, name string) error {
	img, err := newImage(s.dir, fmt.Sprintf("image%d:1", s.bench.scenes), layerSizes())
	if err != nil {
		return err
	}
	return s.keep(ctx, name, img)
}

// grown adds an image with one more layer.
func (s *scene) grown(ctx context.Context, name string) error {
	img, err := s.pictures[0].grow(s.dir, fmt.Sprintf("image%d:2", s.bench.scenes), smallLayer)
	if err != nil {
		return err
	}
	return s.keep(ctx, name, img)
}

func (s *scene) keep(ctx context.Context, name string, img *image) error {
	c := s.bench.clients[name]
	s.pictures = append(s.pictures, img)
	s.cleanup = append(s.cleanup, func() { c.drop(img) })
	return c.load(ctx, img)
}

// floor is what the line itself allows: the bytes of the image's layers, four at a time, to a server that discards them.
func (b *bench) floor() scenario {
	return scenario{
		name:  "floor",
		sides: []side{{name: "sink", sink: true, line: true}},
		begin: func(_ context.Context, s *scene) error {
			for _, size := range layerSizes() {
				one, err := newBlobs(1, size)
				if err != nil {
					return err
				}
				s.blobs = append(s.blobs, one...)
			}
			return nil
		},
		steps: []step{{
			name: "floor", bytes: imageBytes(),
			run: func(ctx context.Context, s *scene) error { return s.wire(4).put(ctx, "floor", s.blobs) },
		}},
	}
}

// stall is a push through pushproxy while the upstream, in the middle, neither takes nor says anything for a while; its
// other side is the same without that. The clients are those that wait 30 seconds for an answer and no longer.
func (b *bench) stall(name string) scenario {
	sd := side{proxied: true, storage: b.storages()[0], line: true}
	steady, stalled := sd, sd
	steady.name, stalled.name = "steady", "stalled"
	return scenario{
		name:   "stall, " + name,
		rounds: 3,
		sides:  []side{steady, stalled},
		begin:  func(ctx context.Context, s *scene) error { return s.picture(ctx, name) },
		steps: []step{{
			name: "stall " + name,
			prepare: func(ctx context.Context, s *scene) error {
				return b.clients[name].tag(ctx, s.pictures[0], s.ref("acme/app:1"))
			},
			run: func(ctx context.Context, s *scene) error {
				if s.side.name == "stalled" {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					go s.stallHalfway(ctx)
				}
				return b.clients[name].push(ctx, s.pictures[0], s.ref("acme/app:1"))
			},
			check: func(ctx context.Context, s *scene) error { return s.verify(ctx, "acme/app", "1") },
		}},
	}
}

// stallHalfway holds the line once half of the image has passed.
func (s *scene) stallHalfway(ctx context.Context) {
	_, before := s.seen()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, sent := s.seen(); sent-before >= imageBytes()/2 {
			s.link.Stall(stallFor)
			return
		}
	}
}
