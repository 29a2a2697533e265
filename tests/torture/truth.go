package torture

import (
	"maps"
	"slices"
)

// Holds returns what the upstream lacks of a manifest and all that it names; ""
// when that is nothing.
func (m *Model) Holds(repo, digest string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	raw, ok := m.manifests[repo+"@"+digest]
	if !ok {
		return "manifest " + digest
	}
	for _, b := range blobsOf(raw) {
		if content, ok := m.blobs[repo+"@"+b]; !ok || digestOf(content) != b {
			return "blob " + b
		}
	}
	return ""
}

// Tag returns what a tag means now, and all that was written to it, in order.
func (m *Model) Tag(repo, tag string) (digest string, history []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tags[repo+":"+tag], slices.Clone(m.history[repo+":"+tag])
}

// Received returns how many bytes of blobs came in all, and how many are kept.
func (m *Model) Received() (all, kept int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for b := range maps.Values(m.blobs) {
		kept += int64(len(b))
	}
	return m.received, kept
}
