package status

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func renderTo(t *testing.T, name string, view any) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	render(w, http.StatusOK, name, view)
	if w.Code != http.StatusOK {
		t.Fatalf("%s is not rendered: %s", name, w.Body)
	}
	return w.Body.Bytes()
}

func TestPagesReadAsTheyAlwaysDid(t *testing.T) {
	t.Parallel()
	s := shown()
	empty := Snapshot{Pushproxy: "v1.2.3", Now: s.Now, Store: Store{ReadOnly: "the disk is full: free space on it"}}
	first := Query{Limit: pageLength}
	for name, view := range map[string]any{
		"page":        newPage(s, s.Finished, first, "p3"),
		"page-empty":  newPage(empty, nil, first, ""),
		"page-search": newPage(empty, s.Finished[2:3], Query{Text: `acme/"lib"`, State: "failed", Before: "p5", Limit: 10}, "p4"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name, renderTo(t, "page.html", view))
		})
	}
	for name, p := range map[string]Push{"pushpage": s.Finished[0], "pushpage-in-flight": s.Pushes[0], "pushpage-stopped": s.Finished[3]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name, renderTo(t, "push.html", newPushPage(p, "v1.2.3", s.Now)))
		})
	}
}

// markup is what names and texts of others may hold that would be more than text in a page.
const markup = `"><script>alert(1)</script><img src=x onerror=alert(2)>' onmouseover='alert(3)` + "`${alert(4)}{{.}}</template></title></textarea><!--"

func TestTextOfOthersIsTextInAPage(t *testing.T) {
	t.Parallel()
	plain, hostile := pagesSaying(t, "plain"), pagesSaying(t, markup)
	for name, page := range hostile {
		got, want := tagsOf(t, page), tagsOf(t, plain[name])
		if !slices.Equal(got, want) {
			t.Errorf("%s has other tags where its texts are hostile:\n%s", name, page)
		}
	}
}

// pagesSaying renders all pages with the same words for everything that comes from others.
func pagesSaying(t *testing.T, words string) map[string][]byte {
	t.Helper()
	now := shown().Now
	blob := func(s BlobState) Blob {
		return Blob{Digest: "sha256:" + words, Upload: words, MediaType: words, State: s, From: words, Why: words, ReceiveBegan: now, SendEnded: now}
	}
	push := Push{ID: words, Principal: words, Agent: words, Upstream: words, Repository: words, Tags: []string{words}, Digest: words, Job: words,
		State: State(words), Why: words, Credential: words, Started: now, Blobs: []Blob{blob(BlobRetrying), blob(BlobFailed), blob(BlobMounted), blob(BlobState(words))},
		Steps: []Step{{Op: words, Text: words, Blob: words}}}
	all := Snapshot{Pushproxy: words, Now: now, Store: Store{ReadOnly: words}, Pushes: []Push{push},
		Queue:     []Job{{ID: words, Push: words, Upstream: words, Repository: words, Reference: words, State: words, Why: words}},
		Upstreams: []Upstream{{Host: words, Reachable: words, Why: words, Credential: words, Limits: []string{words}, Quirks: []string{words}}}}
	return map[string][]byte{
		"page":    renderTo(t, "page.html", newPage(all, []Push{push}, Query{Text: words, State: words, Before: words, Limit: pageLength}, words)),
		"push":    renderTo(t, "push.html", newPushPage(push, words, now)),
		"problem": renderTo(t, "problem.html", problemView{Title: words, Program: words, Text: words}),
	}
}

// tagsOf returns the tags of a page with the names of their attributes. What is neither a tag nor text fails the test.
func tagsOf(t *testing.T, page []byte) []string {
	t.Helper()
	value := regexp.MustCompile(`="[^"<>]*"`)
	tag := regexp.MustCompile(`<!?[/a-zA-Z][^\s"'<>]*(?:\s+[a-zA-Z0-9:-]+(?:="[^"<>]*")?)*\s*/?>`)
	rest := tag.ReplaceAllString(string(page), "")
	if i := strings.IndexAny(rest, "<>"); i >= 0 {
		t.Errorf("neither a tag nor text: %q", rest[max(0, i-60):min(len(rest), i+60)])
	}
	var tags []string
	for _, found := range tag.FindAllString(string(page), -1) {
		tags = append(tags, value.ReplaceAllString(found, ""))
	}
	return tags
}

func TestPagesObeyTheirSecurityPolicy(t *testing.T) {
	t.Parallel()
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?:[^>]*)>[^<]|javascript:`)
	elsewhere := regexp.MustCompile(`(?:src|href|action|url|from|import)\s*[=(]?\s*["'(](?:https?:)?//`)
	err := fs.WalkDir(assetFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := assetFiles.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".html") && inline.Match(content) {
			t.Errorf("%s: %s would be blocked", path, inline.Find(content))
		}
		if elsewhere.Match(content) {
			t.Errorf("%s: %s leaves the machine", path, elsewhere.Find(content))
		}
		if strings.HasSuffix(path, ".js") && regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\(|createContextualFragment`).Match(content) {
			t.Errorf("%s makes markup of text", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestABarSaysWhatIsTrue(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		blob   Blob
		bar    bool
		value  int64
		detail string
	}{
		{"received in part, its length not known", Blob{State: BlobReceiving, Size: -1, Received: 5_400_000}, true, 0, "received 5.40 MB"},
		{"received in part and sent on", Blob{State: BlobPushing, Size: 41_000_000, Received: 30_000_000, Sent: 12_300_000}, true, 12_300_000, "received 30.0 MB of 41.0 MB · upstream 12.3 MB of 41.0 MB"},
		{"one byte short of complete", Blob{State: BlobPushing, Size: 41_000_000, Received: 41_000_000, Sent: 40_999_999}, true, 40_999_999, "received 41.0 MB · upstream 40.9 MB of 41.0 MB"},
		{"not sent by this client", Blob{State: BlobPushing, Size: 1000, Sent: 500}, true, 500, "upstream 500 B of 1.00 kB"},
		{"waiting", Blob{State: BlobWaiting, Size: 1000, Received: 1000}, true, 0, "received 1.00 kB"},
		{"there already: nothing was sent, so there is no bar", Blob{State: BlobExists, Size: 1000}, false, 0, "1.00 kB"},
		{"mounted", Blob{State: BlobMounted, Size: 1000, From: "acme/base"}, false, 0, "acme/base · 1.00 kB"},
		{"pushed", Blob{State: BlobPushed, Size: 41_000_000, Sent: 41_000_000, SendBegan: now, SendEnded: now.Add(3200 * time.Millisecond)}, true, 41_000_000, "41.0 MB in 3.2 s · at 12.8 MB/s"},
		{"pushed without a byte", Blob{State: BlobPushed}, true, 1, "0 B"},
		{"sent again after a break", Blob{State: BlobPushing, Size: 1000, Received: 1000, Sent: 100, Again: 2}, true, 100, "received 1.00 kB · upstream 100 B of 1.00 kB · sent again 2 times"},
		{"waiting for its next try", Blob{State: BlobRetrying, Size: 1000, Sent: 400, RetryAt: now.Add(3100 * time.Millisecond), Why: "the upstream answered 503"}, true, 400,
			"in 4 s because the upstream answered 503 · upstream 400 B of 1.00 kB"},
		{"trying again", Blob{State: BlobRetrying, Size: 1000, RetryAt: now.Add(-time.Second)}, true, 0, "now"},
		{"failed", Blob{State: BlobFailed, Size: 1000, Sent: 400, Why: "the upstream refused it"}, true, 400, "the upstream refused it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newBlob(c.blob, now)
			if v.Bar != c.bar || v.Sent != c.value && c.bar || v.Detail != c.detail {
				t.Errorf("bar %t at %d of %d, %q; want %t at %d, %q", v.Bar, v.Sent, v.Most, v.Detail, c.bar, c.value, c.detail)
			}
		})
	}
}

func TestATimeLineIsDrawnToScale(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	sec := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	span := func(class, x, width string) timelineSpan { return timelineSpan{Class: class, X: x, Width: width} }
	for _, c := range []struct {
		name string
		blob Blob
		want []timelineSpan
		mark string
		text string
	}{
		{"received, waited, uploaded", Blob{State: BlobPushed, ReceiveBegan: sec(0), ReceiveEnded: sec(2), SendBegan: sec(5), SendEnded: sec(10)},
			[]timelineSpan{span("received", "0.00%", "20.00%"), span("waiting", "20.00%", "30.00%"), span("uploading", "50.00%", "50.00%")}, "",
			"Pushed · received from 0 ms to 2 s · waited 3 s · uploaded from 5 s to 10 s"},
		{"sent on while it was received", Blob{State: BlobPushed, ReceiveBegan: sec(0), ReceiveEnded: sec(8), SendBegan: sec(1), SendEnded: sec(9)},
			[]timelineSpan{span("received", "0.00%", "80.00%"), span("uploading", "10.00%", "80.00%")}, "", ""},
		{"still waiting", Blob{State: BlobWaiting, ReceiveBegan: sec(0), ReceiveEnded: sec(1)},
			[]timelineSpan{span("received", "0.00%", "10.00%"), span("waiting", "10.00%", "90.00%")}, "", ""},
		{"mounted: only known to be there", Blob{State: BlobMounted, SendBegan: sec(1), SendEnded: sec(2.5)}, nil, "25.00%", "Mounted from · known to be there after 2.5 s"},
		{"there already though it was sent here", Blob{State: BlobExists, ReceiveBegan: sec(0), ReceiveEnded: sec(1), SendEnded: sec(1)},
			[]timelineSpan{span("received", "0.00%", "10.00%")}, "10.00%", ""},
		{"quick ones are still seen", Blob{State: BlobPushed, SendBegan: sec(10), SendEnded: sec(10)}, []timelineSpan{span("uploading", "99.70%", "0.30%")}, "", ""},
		{"a clock that went back", Blob{State: BlobPushed, SendBegan: sec(4), SendEnded: sec(3)}, []timelineSpan{span("uploading", "40.00%", "0.30%")}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			line := newTimeline(Push{Started: began, Finished: sec(10), Blobs: []Blob{c.blob, {State: BlobWaiting}}}, sec(60))
			if len(line.Rows) != 1 {
				t.Fatalf("%d rows for one blob with times and one without", len(line.Rows))
			}
			row := line.Rows[0]
			if len(row.Spans) != len(c.want) || row.Mark != c.mark || c.text != "" && !strings.HasSuffix(row.Text, c.text) {
				t.Fatalf("drawn %v, mark %q, %q", row.Spans, row.Mark, row.Text)
			}
			for i, w := range c.want {
				if g := row.Spans[i]; g.Class != w.Class || g.X != w.X || g.Width != w.Width {
					t.Errorf("drawn %v, want %v", g, w)
				}
			}
		})
	}
	if line := newTimeline(Push{Started: began, Blobs: []Blob{{State: BlobWaiting}}}, sec(1)); line != nil {
		t.Error("a push without a time has a time line")
	}
}

func TestAnAxisHasRoundTimes(t *testing.T) {
	t.Parallel()
	for span, want := range map[time.Duration]string{
		time.Millisecond: "0 0 ms 0 ms 0 ms 0 ms 1 ms", 90 * time.Millisecond: "0 20 ms 40 ms 60 ms 80 ms", 3200 * time.Millisecond: "0 1 s 2 s 3 s",
		10 * time.Second: "0 2 s 4 s 6 s 8 s 10 s", 61 * time.Second: "0 20 s 40 s 1 min 0 s", 3 * time.Hour: "0 33 min 20 s 1 h 6 min 1 h 40 min 2 h 13 min 2 h 46 min",
	} {
		var words []string
		for _, tick := range (axis{span: span}).ticks() {
			words = append(words, tick.Words)
		}
		if got := strings.Join(words, " "); got != want {
			t.Errorf("%s: %s, want %s", span, got, want)
		}
	}
}
