package upstream

import "time"

// learnedFor is how long an answer about what the upstream can do is believed.
const learnedFor = time.Hour

// way is how an upload's bytes are sent; each is tried when the one before it
// is refused.
type way int

const (
	whole  way = iota + 1 // PUT with the whole body
	stream                // one PATCH, then an empty PUT
	chunks                // PATCHes with Content-Range, then PUT
)

// learned is what the upstream's answers have taught.
type learned struct {
	until  time.Time
	way    way   // what worked after others were refused
	body   int64 // the smallest body refused as too large, in bytes
	chunk  int64 // the largest chunk accepted after larger ones were refused
	noTags bool  // it ignores ?tag=
}

// lesson returns what is known now.
func (c *Client) lesson() learned {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().After(c.learned.until) {
		c.learned = learned{}
	}
	return c.learned
}

// learn changes what is known.
func (c *Client) learn(change func(*learned)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.After(c.learned.until) {
		c.learned = learned{until: now.Add(learnedFor)}
	}
	change(&c.learned)
}

// ways returns the ways to send size bytes, the first to be tried first.
func (c *Client) ways(size int64) []way {
	q, l := c.quirk(), c.lesson()
	switch {
	case size == 0, q.WholeOnly && size > 0:
		return []way{whole}
	case size < 0:
		return []way{stream}
	case l.body > 0 && size >= l.body, c.MaxBody > 0 && size > c.MaxBody:
		return []way{chunks}
	case l.way == chunks:
		return []way{chunks}
	case l.way == stream:
		return []way{stream, chunks}
	}
	return []way{whole, stream, chunks}
}

// Streams reports whether a body without a known end may be sent: not where one
// can be too large.
func (c *Client) Streams() bool { return c.MaxBody == 0 && c.lesson().body == 0 }
