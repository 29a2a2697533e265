package tests

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// auditLines are the lines of the audit log with a message.
func (r *rig) auditLines(t *testing.T, message string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(readFile(t, filepath.Join(r.config.DataDir, "audit.log"))) {
		entry := map[string]any{}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if entry["msg"] == message {
			lines = append(lines, entry)
		}
	}
	return lines
}

func TestTheAuditLogSaysWhatBecameOfAQueuedPush(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	a := p.api()
	layer := a.pushBlob(t, killRepo, randomBytes(90, 100_000))
	m := artifactOf(t, a.pushBlob(t, killRepo, []byte("{}")), layer)
	refuse := func(_ http.ResponseWriter, _ *http.Request) bool { return false }
	p.rec.setRule(func(w http.ResponseWriter, r *http.Request) bool { return refuse(w, r) })
	queue := func(tag string) (job string) {
		got := a.want(t, http.StatusCreated, "PUT", "/v2/"+killRepo+"/manifests/"+tag, m, "Content-Type", typeManifest, "Pushproxy-Mode", "async")
		return got.Header.Get("Pushproxy-Job")
	}
	line := func(message, job string) (found map[string]any) {
		poll(t, "a line "+message, func() bool {
			for _, l := range p.auditLines(t, message) {
				if l["job"] == job {
					found = l
				}
			}
			return found != nil
		})
		return found
	}
	want := func(l map[string]any, key, part string) {
		t.Helper()
		if text, _ := json.Marshal(l[key]); !strings.Contains(string(text), part) {
			t.Errorf("%s of the line is %s, want %s: %v", key, text, part, l)
		}
	}
	job := queue("v1")
	want(line("queued", job), "credential", "alice from docker config")
	sent := line("sent", job)
	for key, part := range map[string]string{
		"principal": "local", "credential": "alice from docker config", "accepted_with": "alice from docker config", "repository": killRepo, "tags": "v1",
		"digest": digestOf(m), "blobs": layer.Digest,
	} {
		want(sent, key, part)
	}
	for _, blob := range sent["blobs"].([]any) {
		if how := blob.(map[string]any)["how"]; how != "uploaded" && how != "skipped" {
			t.Errorf("a blob came to be there by %v", how)
		}
	}
	// The upstream takes no more of Alice's tags: somebody has to look at it.
	refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PUT" || !strings.HasSuffix(r.URL.Path, "/manifests/v2") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"tags are immutable\nmsg=forged"}]}`))
		return true
	}
	job = queue("v2")
	failed := line("not sent", job)
	want(failed, "state", "needs-auth")
	want(failed, "credential", "alice from docker config")
	if reason, _ := failed["reason"].(string); reason == "" {
		t.Errorf("the line gives no reason: %v", failed)
	}
}
