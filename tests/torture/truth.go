package torture

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func (m *Model) manifest(w http.ResponseWriter, r *http.Request, repo, reference string, fault Fault) {
	if r.Method != http.MethodPut {
		m.mu.Lock()
		d := reference
		if tagged, ok := m.tags[repo+":"+reference]; ok {
			d = tagged
		}
		raw, ok := m.manifests[repo+"@"+d]
		m.mu.Unlock()
		serve(w, r, raw, ok, d, mediaType, "MANIFEST_UNKNOWN")
		return
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil || fault == Cut {
		panic(http.ErrAbortHandler)
	}
	d := digestOf(raw)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range blobsOf(raw) {
		if _, ok := m.blobs[repo+"@"+b]; !ok {
			fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN")
			return
		}
	}
	m.manifests[repo+"@"+d] = raw
	if !strings.Contains(reference, ":") {
		m.tags[repo+":"+reference] = d
		m.history[repo+":"+reference] = append(m.history[repo+":"+reference], d)
	}
	w.Header().Set("Docker-Content-Digest", d)
	w.WriteHeader(http.StatusCreated)
}

// blobsOf lists what an image's manifest names.
func blobsOf(raw []byte) []string {
	var doc struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if json.Unmarshal(raw, &doc) != nil {
		return nil
	}
	list := []string{doc.Config.Digest}
	for _, l := range doc.Layers {
		list = append(list, l.Digest)
	}
	return list
}

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

// Most returns how many bodies came at once at most, and the largest of them, in
// bytes.
func (m *Model) Most() (atOnce int, largest int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most, m.largest
}

// CutAll breaks off whatever is being received.
func (m *Model) CutAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.cut)
	m.cut = make(chan struct{})
}

// SetPassword changes the password of the account.
func (m *Model) SetPassword(password string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.password = password
	clear(m.tokens)
}
