package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tmaxmax/go-sse"

	"pushproxy/status"
)

// toldMost is how many finished pushes a board remembers having told: more than
// a snapshot has, so that none is told twice.
const toldMost = 500

// wanted says which pushes and jobs a command is about.
type wanted struct {
	push       string // id; empty: any
	repository string // part of host/name; empty: any
}

func (w wanted) repo(host, name string) bool { return strings.Contains(host+"/"+name, w.repository) }

func (w wanted) has(p status.Push) bool {
	return (w.push == "" || p.ID == w.push) && w.repo(p.Upstream, p.Repository)
}

// of returns the part of a snapshot that is wanted.
func (w wanted) of(s status.Snapshot) status.Snapshot {
	other := func(p status.Push) bool { return !w.has(p) }
	s.Pushes, s.Finished = slices.DeleteFunc(s.Pushes, other), slices.DeleteFunc(s.Finished, other)
	s.Queue = w.jobs(s.Queue)
	return s
}

func (w wanted) jobs(all []status.Job) []status.Job {
	return slices.DeleteFunc(all, func(j status.Job) bool {
		return !w.repo(j.Upstream, j.Repository) || w.push != "" && j.Push != w.push
	})
}

// board is the newest state of everything that a watch was told.
type board struct {
	wanted wanted
	mu     sync.Mutex
	now    status.Snapshot // its Finished is not kept up
	told   []string        // finished pushes
	lost   bool            // the connection
}

// news is what an event changed.
type news struct {
	lines []string     // everything, in words
	keep  []string     // of it, what bars do not show
	ended *status.Push // the push that is over with it, if one is
}

func kept(lines []string) news { return news{lines: lines, keep: lines} }

// take brings the board up to an event and returns what is new in it.
func (b *board) take(e sse.Event, now time.Time) (n news, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = false
	data := []byte(e.Data)
	switch e.Type {
	case "snapshot":
		var s status.Snapshot
		if err = json.Unmarshal(data, &s); err != nil {
			break
		}
		if err := understood(s); err != nil {
			return n, err
		}
		n = b.snapshot(b.wanted.of(s), now)
	case "push":
		var p status.Push
		if err = json.Unmarshal(data, &p); err == nil && b.wanted.has(p) {
			n = b.push(p, now)
		}
	case "queue":
		var jobs []status.Job
		if err = json.Unmarshal(data, &jobs); err == nil {
			jobs = b.wanted.jobs(jobs)
			n, b.now.Queue = kept(status.QueueChanges(b.now.Queue, jobs, now)), jobs
		}
	case "upstream":
		var u status.Upstream
		if err = json.Unmarshal(data, &u); err == nil {
			n = kept(b.upstream(u, now))
		}
	case "store":
		var s status.Store
		if err = json.Unmarshal(data, &s); err == nil {
			n, b.now.Store = kept(status.StoreChanges(b.now.Store, s)), s
		}
	}
	if err != nil {
		err = fmt.Errorf("an event (%s) of the running pushproxy cannot be read: %w", printable(e.Type), err)
	}
	return n, err
}

// understood refuses the JSON of another version.
func understood(s status.Snapshot) error {
	if s.Version != status.Version {
		return fmt.Errorf("the running pushproxy (%s) speaks version %d of the status JSON and this program version %d: use the program that is running",
			printable(s.Pushproxy), s.Version, status.Version)
	}
	return nil
}

// snapshot takes everything anew. What was known before tells what happened in
// between.
func (b *board) snapshot(s status.Snapshot, now time.Time) (n news) {
	before := b.now
	b.now = s
	b.now.Finished = nil
	switch {
	case before.Instance == "":
		for _, p := range s.Finished {
			b.told = append(b.told, p.ID)
		}
		n.lines = []string{fmt.Sprintf("pushproxy %s: %d in flight, %d queued", printable(s.Pushproxy), len(s.Pushes), len(s.Queue))}
	case before.Instance != s.Instance:
		n = kept([]string{fmt.Sprintf("pushproxy %s was started anew", printable(s.Pushproxy))})
	}
	known := map[string]status.Push{}
	for _, p := range before.Pushes {
		known[p.ID] = p
	}
	for _, p := range slices.Backward(s.Finished) {
		if !slices.Contains(b.told, p.ID) {
			n.add(b.over(known[p.ID], p, now))
		}
		delete(known, p.ID)
	}
	for _, p := range s.Pushes {
		n.lines = append(n.lines, status.PushChanges(known[p.ID], p, now)...)
		delete(known, p.ID)
	}
	for _, p := range before.Pushes {
		if _, gone := known[p.ID]; !gone {
			continue
		}
		if now := interrupted(p, s.Queue); now.Over() {
			n.add(b.over(p, now, s.Now))
		} else {
			n.add(kept([]string{now.Image() + ": " + now.Says(s.Now)}))
		}
	}
	n.add(kept(status.QueueChanges(before.Queue, s.Queue, now)))
	for _, u := range s.Upstreams {
		old := slices.IndexFunc(before.Upstreams, func(o status.Upstream) bool { return o.Host == u.Host })
		if old < 0 {
			n.add(kept(status.UpstreamChanges(status.Upstream{}, u, now)))
		} else {
			n.add(kept(status.UpstreamChanges(before.Upstreams[old], u, now)))
		}
	}
	n.add(kept(status.StoreChanges(before.Store, s.Store)))
	return n
}

func (n *news) add(more news) {
	n.lines, n.keep = append(n.lines, more.lines...), append(n.keep, more.keep...)
	n.ended = cmp.Or(more.ended, n.ended)
}

// interrupted says how a push ended that pushproxy knows nothing of any more.
func interrupted(p status.Push, queue []status.Job) status.Push {
	p.State, p.Why = status.Stopped, "pushproxy was started again; push once more, what was received is kept"
	for _, j := range queue {
		if p.Job != "" && j.ID == p.Job {
			p.State, p.Why = status.Queued, "pushproxy was started again and goes on with job "+j.ID
		}
	}
	return p
}

func (b *board) push(p status.Push, now time.Time) news {
	if told := slices.Index(b.told, p.ID); told >= 0 {
		if p.Over() {
			return news{}
		}
		b.told = slices.Delete(b.told, told, told+1) // it was tried again
	}
	i := slices.IndexFunc(b.now.Pushes, func(o status.Push) bool { return o.ID == p.ID })
	var before status.Push
	if i >= 0 {
		before = b.now.Pushes[i]
	}
	switch {
	case p.Over() && i >= 0:
		b.now.Pushes = slices.Delete(b.now.Pushes, i, i+1)
		fallthrough
	case p.Over():
		return b.over(before, p, now)
	case i >= 0:
		b.now.Pushes[i] = p
	default:
		b.now.Pushes = append(b.now.Pushes, p)
	}
	return news{lines: status.PushChanges(before, p, now)}
}

// over is how a push ended, which is told once.
func (b *board) over(before, p status.Push, now time.Time) news {
	b.told = append(b.told, p.ID)
	b.told = b.told[max(0, len(b.told)-toldMost):]
	lines := status.PushChanges(before, p, now)
	return news{lines: lines, keep: lines[max(0, len(lines)-1):], ended: &p}
}

func (b *board) upstream(u status.Upstream, now time.Time) []string {
	i := slices.IndexFunc(b.now.Upstreams, func(o status.Upstream) bool { return o.Host == u.Host })
	if i < 0 {
		b.now.Upstreams = append(b.now.Upstreams, u)
		return status.UpstreamChanges(status.Upstream{}, u, now)
	}
	before := b.now.Upstreams[i]
	b.now.Upstreams[i] = u
	return status.UpstreamChanges(before, u, now)
}
