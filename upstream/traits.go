package upstream

import "fmt"

// Traits says in a sentence each how the upstream differs from the
// specification, as far as it is known or its answers have taught it.
func (c *Client) Traits() (traits []string) {
	q, l := c.quirk(), c.lesson()
	say := func(is bool, format string, args ...any) {
		if is {
			traits = append(traits, fmt.Sprintf(format, args...))
		}
	}
	mib := func(n int64) string { return fmt.Sprintf("%.3g MiB", float64(n)/(1<<20)) }
	say(q.Name != "", "known as %s", q.Name)
	say(q.WholeOnly, "takes blobs whole, not in chunks")
	say(q.LastInPut, "the last chunk goes with the closing PUT")
	say(q.ChunkMin > 0, "chunks of at least %s", mib(q.ChunkMin))
	say(q.ChunkMax > 0, "chunks of at most %s", mib(q.ChunkMax))
	say(q.NoCancel, "uploads cannot be cancelled")
	say(q.HeadForbidden, "403 to a HEAD may mean that it is not there")
	say(q.MaxTags > 0, "lists at most %d tags at once", q.MaxTags)
	say(l.way == stream, "learned: takes blobs as one PATCH, not with the PUT")
	say(l.way == chunks, "learned: takes blobs in chunks alone")
	say(l.body > 0, "learned: refuses bodies of %s", mib(l.body))
	say(l.chunk > 0, "learned: takes chunks of at most %s", mib(l.chunk))
	say(l.noTags, "learned: ignores further tags of a manifest")
	return traits
}
