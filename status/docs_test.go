package status

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/upstream/upstreamtest"
)

const docsFile = "../docs/status-api.md"

// call asks the rig's server as somebody.
func (r *rig) call(v Viewer, method, path string, headers ...string) *httptest.ResponseRecorder {
	r.t.Helper()
	req := httptest.NewRequest(method, path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	r.server.Handler().ServeHTTP(w, req.WithContext(WithViewer(req.Context(), v)))
	return w
}

// normal replaces what is another each time: ids, and the date.
func normal(text string) string {
	text = strings.ReplaceAll(text, "2000-01-01T", "2026-11-21T")
	seen := map[string]string{}
	names := []string{"k3v9q2m7xd", "b8w4n6tz5c", "m2f7h9r4qa", "x6d3j8p5vn"}
	text = regexp.MustCompile(`"(id|push)": ?"([a-z2-7]{10})"`).ReplaceAllStringFunc(text, func(s string) string {
		id := s[len(s)-11 : len(s)-1]
		if seen[id] == "" {
			seen[id] = names[len(seen)]
		}
		return s[:len(s)-11] + seen[id] + `"`
	})
	text = regexp.MustCompile(`"upload": ?"[0-9a-f]{32}"`).ReplaceAllString(text, `"upload": "91939502f4605831034fbc7f3a856497"`)
	text = regexp.MustCompile(`here-\d+`).ReplaceAllString(text, "here-57")
	text = strings.ReplaceAll(text, `"here"`, `"w8f2k6qz"`)
	text = strings.ReplaceAll(text, "here-57", "w8f2k6qz-57")
	text = regexp.MustCompile(`("retry_at": "2026-11-21T14:04:)[^"]*`).ReplaceAllString(text, "${1}02Z")
	return regexp.MustCompile(`([0-9a-f]{16})-[a-z2-7]{16}`).ReplaceAllString(text, "$1-qk4ghzr7m2xw5c3n")
}

func indented(t *testing.T, data []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(data), "", "  "); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return normal(b.String())
}

func TestTheExamplesOfTheDocumentationAreRealAnswers(t *testing.T) {
	t.Parallel()
	examples := map[string]string{}
	bubble(t, "", func(t *testing.T, r *rig) {
		r.server.Usage = nil
		time.Sleep(14*time.Hour + 3*time.Minute)
		config, base, layer := content("config", 1469), content("base", 300_000), content("layer", 2_000_000)
		r.receive("local", "acme/base", config)
		r.receive("local", "acme/base", base)
		r.pushed("local", "acme/base", "v1", r.image(config, base))
		time.Sleep(time.Minute)
		r.reg.Inject(upstreamtest.Fault{Method: http.MethodPut, Path: "/blobs/", Delay: 400 * time.Millisecond})
		r.receive("local", "acme/app", layer)
		p := r.pushed("local", "acme/app", "v1", r.image(config, base, layer))
		r.reg.Fail = func(*http.Request) int { return http.StatusServiceUnavailable }
		job := r.promise("local", "acme/app", "v2", content("later", 5000))
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if err := json.Unmarshal(r.call(all, "GET", "/v1/pushes/"+p.ID).Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		// What was asked in the same moment came in either order.
		slices.SortFunc(p.Steps, func(a, b Step) int {
			return cmp.Or(a.When.Compare(b.When), cmp.Compare(a.Op, b.Op), cmp.Compare(a.Blob, b.Blob))
		})
		examples["push"] = indented(t, encode(p))
		examples["pushes"] = indented(t, r.call(all, "GET", "/v1/pushes?q=acme/base&state=done&limit=1").Body.Bytes())
		examples["error"] = indented(t, r.call(all, "GET", "/v1/pushes?state=done-ish").Body.Bytes())
		r.reg.Fail = nil
		var s map[string]any
		if err := json.Unmarshal(r.call(all, "GET", "/v1/status").Body.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"pushes", "finished", "queue", "upstreams"} {
			if len(s[what].([]any)) == 0 {
				t.Errorf("the example has no %s", what)
			}
		}
		examples["status"] = shortStatus(t, r)
		open, end := r.serveStream(all)
		stream := open("")
		_, err := stream.next()
		r.must(err)
		_, err = r.queue.Drop(t.Context(), job.ID)
		r.must(err)
		for {
			m, err := stream.next()
			r.must(err)
			if m.name == "queue" && m.data == "[]" {
				examples["events"] = normal(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n", m.id, m.name, m.data))
				break
			}
		}
		stream.conn.Close()
		end()
	})
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile("(?s)<!-- example: (\\w+) -->\n```(json)?\n.*?```\n").ReplaceAllStringFunc(string(text), func(block string) string {
		name := regexp.MustCompile(`example: (\w+)`).FindStringSubmatch(block)[1]
		lines := strings.SplitAfterN(block, "\n", 3)
		out := lines[0] + lines[1] + strings.TrimRight(examples[name], "\n") + "\n```\n"
		delete(examples, name)
		return out
	})
	if len(examples) > 0 {
		t.Errorf("the documentation does not show %v", examples)
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != string(text) {
		t.Errorf("docs/status-api.md shows other answers than there are (-update writes them anew); now it would be\n%s", got)
	}
}

// shortStatus is a snapshot whose lists have one entry each, and whose pushes one
// blob: the documentation shows what there is, not all of it.
func shortStatus(t *testing.T, r *rig) string {
	t.Helper()
	s := r.server.snapshot(all)
	s.Finished, s.Pushes = s.Finished[:1], s.Pushes[:1]
	for _, p := range []*Push{&s.Finished[0], &s.Pushes[0]} {
		p.Blobs = p.Blobs[len(p.Blobs)-1:]
	}
	s.Store = Store{LiveBytes: 2_301_469, DiskBytes: 2_523_136, FreeBytes: 51_475_578_880, Blobs: 3, Oldest: s.Now.Truncate(time.Second)}
	data, err := json.Marshal(s)
	r.must(err)
	return indented(t, data)
}
