package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"pushproxy/oci"
)

const (
	// frame is how often streams are told of changes, at most: each then gets the
	// newest state of what has changed.
	frame = 250 * time.Millisecond
	// heartbeat is how often a stream says something, so that both ends notice when
	// the other is gone.
	heartbeat = 15 * time.Second
	// writeFor is how long a reader may take over what it is sent.
	writeFor = 10 * time.Second
	// mostOwnStreams is how many streams one principal may have.
	mostOwnStreams = 64
)

// live tells streams when to look. It is under Tracker.mu.
type live struct {
	changed chan struct{} // closed when there is something new
	woken   bool
	streams int
	own     map[string]int // … by principal
}

// wake tells the streams of changes. It needs t.mu.
func (l *live) wake() {
	if l.streams == 0 || l.woken {
		return
	}
	l.woken = true
	close(l.changed)
}

// wait returns what is closed at the next change. It needs t.mu.
func (l *live) wait() <-chan struct{} {
	if l.woken {
		l.woken, l.changed = false, make(chan struct{})
	}
	return l.changed
}

// news is one event of a stream.
type news struct {
	name string
	data []byte
}

// events answers with the stream: a snapshot, unless the reader has one that is
// recent enough, and then what changes.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	viewer := viewerOf(r)
	if s.Tracker == nil || !s.Tracker.enter(viewer.Principal) {
		oci.Write(w, oci.ErrTooManyRequests.With("%d pages and commands of yours follow this pushproxy already; close some", mostOwnStreams))
		return
	}
	defer s.Tracker.leave(viewer.Principal)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	st := &stream{s: s, w: w, control: http.NewResponseController(w), viewer: viewer}
	at, ok := s.resumed(r.Header.Get("Last-Event-ID"))
	if !ok {
		if at = st.snapshot(); at < 0 {
			return
		}
	} else if st.send(nil, at, at) != nil {
		return
	}
	st.follow(r, at)
}

// resumed returns the change up to which a reader knows everything; not ok means
// that it has to get a snapshot: its id is of another process, or too old.
func (s *Server) resumed(id string) (at int64, ok bool) {
	instance, number, _ := strings.Cut(id, "-")
	at, err := strconv.ParseInt(number, 10, 64)
	if err != nil || instance != s.Instance {
		return 0, false
	}
	t := s.Tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	return at, at >= t.history.floor && at <= t.seq
}

// stream is one reader.
type stream struct {
	s       *Server
	w       http.ResponseWriter
	control *http.ResponseController
	viewer  Viewer
	store   []byte // as it was sent last
}

func (st *stream) snapshot() (at int64) {
	snapshot, at := st.s.snapshotAt(st.viewer)
	st.store = encode(snapshot.Store)
	if st.send([]news{{"snapshot", encode(snapshot)}}, at, at) != nil {
		return -1
	}
	return at
}

// send writes events for a reader who knows all up to a change, and with the
// last of them the id that says that they know all up to a later one: who is cut
// off before it gets all of them again.
func (st *stream) send(all []news, from, at int64) error {
	var b bytes.Buffer
	for i, n := range all {
		id := from
		if i == len(all)-1 {
			id = at
		}
		fmt.Fprintf(&b, "id: %s-%d\nevent: %s\ndata: %s\n\n", st.s.Instance, id, n.name, n.data)
	}
	if len(all) == 0 {
		b.WriteString(":\n\n")
	}
	// A writer without deadlines is a test's.
	_ = st.control.SetWriteDeadline(time.Now().Add(writeFor))
	if _, err := st.w.Write(b.Bytes()); err != nil {
		return err
	}
	return st.control.Flush()
}

// follow sends what changes after a change until the reader is gone.
func (st *stream) follow(r *http.Request, at int64) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	pause := time.NewTimer(frame)
	defer pause.Stop()
	for {
		changed := st.s.Tracker.wait()
		all, now := st.s.since(st.viewer, at)
		all = append(all, st.stored()...)
		if len(all) > 0 {
			if st.send(all, at, now) != nil {
				return
			}
			beat.Reset(heartbeat)
		}
		at = now
	quiet:
		for {
			select {
			case <-changed:
				break quiet
			case <-beat.C:
				if st.send(nil, at, at) != nil {
					return
				}
			case <-st.s.Tracker.done:
				return
			case <-r.Context().Done():
				return
			}
		}
		// All streams look in the same moment, and what has changed is encoded once.
		moment := time.Now()
		pause.Reset(moment.Truncate(frame).Add(frame).Sub(moment))
		select {
		case <-pause.C:
		case <-r.Context().Done():
			return
		}
	}
}

// stored returns the store if it is not as it was sent last.
func (st *stream) stored() []news {
	if !st.viewer.All {
		return nil
	}
	data := encode(st.s.store())
	if bytes.Equal(data, st.store) {
		return nil
	}
	st.store = data
	return []news{{"store", data}}
}

func encode(v any) []byte {
	// Everything that is sent encodes.
	data, _ := json.Marshal(v)
	return data
}

// enter counts a stream of a principal, unless there are too many.
func (t *Tracker) enter(principal string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.live
	if l.own[principal] >= mostOwnStreams {
		return false
	}
	if l.own == nil {
		l.own = map[string]int{}
	}
	l.own[principal]++
	l.streams++
	return true
}

func (t *Tracker) leave(principal string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := &t.live
	l.streams--
	if l.own[principal]--; l.own[principal] == 0 {
		delete(l.own, principal)
	}
}

func (t *Tracker) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live.wait()
}

// since returns what the viewer does not know who knows all up to a change, and
// up to which they know all then. What changed more than once is there once.
func (s *Server) since(v Viewer, at int64) (all []news, now int64) {
	t := s.Tracker
	t.mu.Lock()
	var pushes []*tracked
	for _, p := range t.byID {
		if p.seq > at && v.sees(p.Principal) {
			pushes = append(pushes, p)
		}
	}
	slices.SortFunc(pushes, func(a, b *tracked) int { return int(a.seq - b.seq) })
	for _, p := range pushes {
		if p.encodedSeq != p.seq {
			p.encoded, p.encodedSeq = encode(p.shown()), p.seq
		}
		all = append(all, news{"push", p.encoded})
	}
	// Those that were put away meanwhile.
	for i := len(t.history.items) - 1; i >= 0 && i >= len(t.history.items)-mostLive; i-- {
		if item := t.history.items[i]; item.seq > at && v.sees(item.principal) {
			p := item.push()
			p.Steps = nil
			all = append(all, news{"push", encode(p)})
		}
	}
	queue, hosts := t.jobsSeq > at, t.changedHosts(v, at)
	now = t.seq
	t.mu.Unlock()
	if queue {
		all = append(all, news{"queue", encode(s.queue(v))})
	}
	if len(hosts) > 0 {
		for _, u := range s.upstreams(v) {
			if hosts[u.Host] {
				all = append(all, news{"upstream", encode(u)})
			}
		}
	}
	return all, now
}

// changedHosts returns the upstreams that have changed for a viewer. It needs
// t.mu.
func (t *Tracker) changedHosts(v Viewer, at int64) map[string]bool {
	hosts := map[string]bool{}
	for key, h := range t.hosts {
		if h.seq > at && v.sees(key.principal) {
			hosts[key.host] = true
		}
	}
	return hosts
}
