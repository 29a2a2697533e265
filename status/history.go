package status

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	// mostFinished is how many finished pushes are kept in memory, and mostBytes how
	// many bytes they may have there.
	mostFinished = 10_000
	mostBytes    = 64 << 20
)

// history is the finished pushes, packed.
type history struct {
	items []*packed // by the time they finished, oldest first
	bytes int
	byID  map[string]*packed
	floor int64 // changes up to this one may concern pushes that are gone
	pack  *flate.Writer
}

// packed is a finished push.
type packed struct {
	id        string
	principal string
	state     State
	finished  time.Time
	text      string // what is searched, in lower case
	data      []byte // JSON, deflated
	seq       int64
}

// add keeps a push; the oldest go when there are too many.
func (h *history) add(p Push, seq int64) {
	item := &packed{id: p.ID, principal: p.Principal, state: p.State, finished: p.Finished, text: searched(p), seq: seq}
	item.data = h.deflate(p)
	if h.byID == nil {
		h.byID = map[string]*packed{}
	}
	if old := h.byID[p.ID]; old != nil {
		h.drop(slices.Index(h.items, old))
	}
	at := len(h.items)
	for at > 0 && h.items[at-1].finished.After(item.finished) {
		at--
	}
	h.items = slices.Insert(h.items, at, item)
	h.byID[item.id] = item
	h.bytes += item.size()
	for len(h.items) > mostFinished || h.bytes > mostBytes {
		h.floor = max(h.floor, h.items[0].seq)
		h.drop(0)
	}
}

func (h *history) drop(i int) {
	item := h.items[i]
	h.bytes -= item.size()
	delete(h.byID, item.id)
	h.items = slices.Delete(h.items, i, i+1)
}

func (i *packed) size() int { return len(i.data) + len(i.text) + 200 }

// searched is the text of a push that a search looks at.
func searched(p Push) string {
	return strings.ToLower(strings.Join(append([]string{p.ID, p.Upstream + "/" + p.Repository, p.Digest}, p.Tags...), "\n"))
}

func (h *history) deflate(p Push) []byte {
	var b bytes.Buffer
	if h.pack == nil {
		// The level is one that there is.
		h.pack, _ = flate.NewWriter(&b, flate.BestSpeed)
	}
	h.pack.Reset(&b)
	// A buffer takes everything, and a Push encodes.
	_ = json.NewEncoder(h.pack).Encode(p)
	_ = h.pack.Close()
	return bytes.Clone(b.Bytes())
}

// push unpacks.
func (i *packed) push() (p Push) {
	r := flate.NewReader(bytes.NewReader(i.data))
	// It was packed here.
	_ = json.NewDecoder(r).Decode(&p)
	_, _ = io.Copy(io.Discard, r)
	return p
}

// matches reports whether a finished push is one that a query asks for.
func (q Query) matches(principal, text string, state State, v Viewer) bool {
	return (v.All || principal == v.Principal) && (q.State == "" || q.State == string(state)) && strings.Contains(text, strings.ToLower(q.Text))
}
