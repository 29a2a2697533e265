package proxy

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

// audited puts an audit log before the door and returns its lines, read.
func audited(t *testing.T, r *rig) func() []map[string]any {
	t.Helper()
	out := &logged{}
	r.door.Audit = NewAudit(slog.NewJSONHandler(out, nil))
	return func() (lines []map[string]any) {
		for text := range strings.Lines(out.String()) {
			var line map[string]any
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatalf("%q is not JSON: %v", text, err)
			}
			lines = append(lines, line)
		}
		return lines
	}
}

func TestTheAuditLogSaysWhoPushedWhatWithWhichCredential(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lines, who := audited(t, r), people(t, r, "alice", "only team/**")
	r.pushAs(who[0], app, blobOf(100_000))
	r.want(201, "PUT", app+"/manifests/v1", image(blobOf(100_000)), ociType, who[0])
	r.want(202, "DELETE", app+"/manifests/v1", nil, who[0])
	r.want(403, "PUT", app+"/manifests/v1", image(blobOf(100_000)), ociType, who[1])
	r.want(401, "PUT", app+"/manifests/v1", image(blobOf(100_000)), ociType)
	got := lines()
	if len(got) != 4 {
		t.Fatalf("%d lines: %v", len(got), got)
	}
	push := got[0]
	for key, want := range map[string]any{"msg": "push", "principal": "alice", "repository": "registry.test/acme/app", "reference": "v1", "credential": "a test's credential", "more_blobs": 0.0} {
		if push[key] != want {
			t.Errorf("%s of the push is %v, want %v", key, push[key], want)
		}
	}
	blobs, _ := push["blobs"].([]any)
	if len(blobs) != 1 || blobs[0].(map[string]any)["how"] != "uploaded" {
		t.Errorf("blobs %v", push["blobs"])
	}
	if got[1]["msg"] != "delete" || got[1]["principal"] != "alice" || got[1]["reference"] != "v1" {
		t.Errorf("deletion %v", got[1])
	}
	if got[2]["msg"] != "denied" || got[2]["status"] != 403.0 || !strings.HasPrefix(got[2]["principal"].(string), "local#") {
		t.Errorf("refusal %v", got[2])
	}
	if got[3]["msg"] != "denied" || got[3]["status"] != 401.0 || got[3]["principal"] != "" {
		t.Errorf("refusal %v", got[3])
	}
}

func TestS30NoClientWritesALineOfTheAuditLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lines := audited(t, r)
	r.door.Principals = &Principals{Auth: AuthToken, lookup: processOf(0, errPeer)}
	forged := "x\"}\n{\"msg\":\"push\",\"principal\":\"local\"}\r\n\x1b[2K\u2028"
	r.raw("GET /v2/a%22%7d%0a%7b%22msg%22:%22push%22%7d/tags/list HTTP/1.1\r\nHost: localhost:5001\r\nUser-Agent: x\"} {\"msg\":\"push\"}\r\n" + basic(forged, "x") + "\r\nConnection: close\r\n\r\n")
	for range 50 {
		r.want(401, "GET", "/v2/", nil)
	}
	got := lines()
	for _, line := range got {
		if line["msg"] != "denied" || line["principal"] != "" {
			t.Errorf("forged: %v", line)
		}
	}
	if len(got) < 2 || len(got) > 3*refusalsPerSecond {
		t.Errorf("51 refusals left %d lines", len(got))
	}
}
