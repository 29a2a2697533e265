package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// kept are finished pushes as pushproxy keeps them over a restart, a line of JSON each.
func kept(t *testing.T, r *rig, pushes ...map[string]any) {
	t.Helper()
	f, err := os.Create(filepath.Join(mkdir(t, r.config.DataDir), "pushes.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := json.NewEncoder(f)
	for _, p := range pushes {
		if err := lines.Encode(p); err != nil {
			t.Fatal(err)
		}
	}
}

// keptPush is a finished push, as it is kept, with some fields changed.
func keptPush(n int, more map[string]any) map[string]any {
	began := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
	p := map[string]any{
		"id": fmt.Sprintf("kept%d", n), "principal": "local", "agent": "docker/29.0.1", "upstream": upstreamName, "repository": fmt.Sprintf("kept/app%d", n%17),
		"tags": []string{fmt.Sprintf("v%d", n)}, "digest": digestOf([]byte{byte(n), byte(n >> 8)}), "state": "done", "started": began, "finished": began.Add(1234 * time.Millisecond),
		"blobs": []any{}, "sum": map[string]any{"existed": n % 5, "existed_bytes": n * 1000, "uploaded": 1, "sent_bytes": n * 5_000_001, "requests": 5, "saved_ms": n * 3},
	}
	for key, value := range more {
		p[key] = value
	}
	return p
}

// everyBlob is a blob in each of the states.
func everyBlob(words string) []map[string]any {
	at := func(ms int) time.Time {
		return time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
	}
	var blobs []map[string]any
	for i, b := range []map[string]any{
		{"state": "Receiving", "size": -1, "received": 5_400_000},
		{"state": "Receiving", "size": 41_000_000, "received": 12_399_999, "sent": 1_000},
		{"state": "Preparing", "size": 999, "received": 999},
		{"state": "Waiting", "size": 1_000_000},
		{"state": "Pushing", "size": 41_000_000, "received": 30_000_000, "sent": 12_345_678},
		{"state": "Pushing", "size": 0},
		{"state": "Retrying", "size": 2_000, "received": 2_000, "sent": 700, "retry_at": at(0), "why": words, "again": 1},
		{"state": "Pushed", "size": 41_000_000, "received": 41_000_000, "sent": 41_000_000, "send_began": at(0), "send_ended": at(3217), "again": 3},
		{"state": "Pushed", "size": 123, "send_began": at(5), "send_ended": at(9)},
		{"state": "Layer already exists", "size": 120_000_000_000},
		{"state": "Mounted from", "size": 30_000, "from": words},
		{"state": "Failed", "size": 700, "sent": 300, "why": words},
		{"state": words, "size": 700},
	} {
		b["digest"] = digestOf([]byte{byte(i)})
		b["media_type"] = []string{typeLayer, typeConfig, typeManifest, typeIndex, "application/vnd.docker.image.rootfs.diff.tar.gzip",
			"application/vnd.docker.container.image.v1+json", words}[i%7]
		blobs = append(blobs, b)
	}
	return blobs
}

// texts compares what is shown with what a page loaded now shows, leaving out what counts seconds: both texts, and the bars.
const texts = `(async () => {
  const loaded = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  const said = (doc) => {
    const main = doc.querySelector("#push") || doc.querySelector(".columns"), copy = main.cloneNode(true);
    for (const e of copy.querySelectorAll('article [data-f="took"], #store, [hidden]')) e.remove();
    const bars = [...copy.querySelectorAll("progress")].map((p) => p.max + "/" + p.value + "/" + p.position + "/" + p.getAttribute("aria-label"));
    const links = [...copy.querySelectorAll("[href], [action]")].map((e) => (e.getAttribute("href") || e.getAttribute("action")));
    const styles = [...copy.querySelectorAll("[class], [data-state]")].map((e) => e.className + " " + (e.dataset.state || ""));
    return [copy.textContent.replace(/\s+/g, " "), bars.join("\n"), links.join("\n"), styles.join("\n")];
  };
  return [said(document), said(loaded)];
})()`

// compareLiveWithLoaded holds the two makers of the page to the same words: the server, and the script that keeps it up to
// date.
func compareLiveWithLoaded(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	held := newGate()
	r := prepareWatched(t, rec.URL, nil)
	kept(t, r,
		keptPush(1, map[string]any{"state": "stopped", "why": "the client left", "tags": []string{}, "digest": ""}),
		keptPush(2, map[string]any{"state": "failed", "why": "it was refused", "tags": []string{}}),
		keptPush(3, map[string]any{"state": "unchanged", "tags": []string{"a", "b"}, "sum": map[string]any{}}),
		keptPush(4, map[string]any{"tags": []string{"a", "b", "c", "d", "e"}, "blobs": everyBlob("a reason")}),
		keptPush(5, map[string]any{"finished": time.Now(), "started": time.Now().Add(-3 * time.Hour), "blobs": everyBlob("x")[:1]}))
	r.start(t)
	address := "http://" + r.config.StatusListen[0]
	rec.setRule(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/manifests/") && req.Method == "PUT" {
			held.wait(req.Context())
		}
		return false
	})
	pushed := make(chan answer, 1)
	go func() { pushed <- pushPlainly(t, r, "acme/held", "v1", randomBytes(94, 200_000)) }()
	t.Cleanup(func() { <-pushed })
	t.Cleanup(func() { close(held.open) })
	<-held.waiting

	same := func(page tab) {
		t.Helper()
		var both [][]string
		defer func() {
			if t.Failed() {
				t.Logf("shown: %q\nloaded: %q", both[0], both[1])
			}
		}()
		poll(t, "the page that changes and the one that is loaded to say the same", func() bool {
			both = eval[[][]string](t, page, texts)
			return slices.Equal(both[0], both[1])
		})
	}
	all := openTab(t, b, parts.BrowserTab{URL: address})
	all.live(t)
	waitFor(t, all, `document.querySelector("article.push .blob").dataset.again`) // the script has been here
	same(all)
	for _, id := range []string{"kept4", "kept5"} {
		one := openTab(t, b, parts.BrowserTab{URL: address + "/push/" + id})
		waitFor(t, one, `document.querySelector("#push .blob").dataset.again`)
		same(one)
	}
}

// evil is what an attacker would have as a name or an error text.
const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>' onfocus='alert(4)' autofocus javascript:alert(5) ${alert(6)} {{alert(7)}} </template></title><!--`

// watchHostileTexts has hostile texts wherever they can come from: kept pushes, a client's name, its manifest, and errors of
// the upstream, while pages are open and when they are loaded.
func watchHostileTexts(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "POST" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]any{{"code": evil, "message": evil, "detail": evil}}})
		return true
	})
	r := prepareWatched(t, rec.URL, nil)
	kept(t, r, keptPush(1, map[string]any{
		"principal": evil, "agent": evil, "upstream": evil, "repository": evil, "tags": []string{evil, evil}, "digest": "sha256:" + evil, "state": "failed", "why": evil,
		"credential": evil, "job": evil, "blobs": everyBlob(evil), "steps": []map[string]any{{"when": time.Now(), "blob": evil, "op": evil, "text": evil, "code": 500}},
	}), keptPush(2, map[string]any{"id": evil, "repository": "kept/evil-id"}))
	r.start(t)
	address := "http://" + r.config.StatusListen[0]
	all := openTab(t, b, parts.BrowserTab{URL: address})
	all.live(t)
	one := openTab(t, b, parts.BrowserTab{URL: address + "/push/kept1"})
	one.live(t)
	waitFor(t, one, `document.querySelector("#push .blob").dataset.again`)

	a := api{url: r.URL}
	name := upstreamName + "/acme/evil"
	config := a.pushBlob(t, name, []byte("{}"))
	content, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": []desc{},
		"annotations": map[string]string{"org.opencontainers.image.title": evil, evil: evil}})
	if err != nil {
		t.Fatal(err)
	}
	got := a.do(t, "PUT", "/v2/"+name+"/manifests/v1", content, "Content-Type", typeManifest, "User-Agent", evil)
	if got.StatusCode/100 == 2 {
		t.Fatalf("the refused push: %v", got)
	}
	waitFor(t, all, `[...document.querySelectorAll("#done .name")].some((e) => e.textContent === "acme/evil")`)
	for _, page := range []tab{all, one, openTab(t, b, parts.BrowserTab{URL: address + "/?q=" + "%22%3E%3Cscript%3Ealert(8)%3C%2Fscript%3E"}),
		openTab(t, b, parts.BrowserTab{URL: address + "/push/" + "%22%3E%3Cscript%3Ealert(9)%3C%2Fscript%3E"}, "404"),
		openTab(t, b, parts.BrowserTab{URL: address + "/?state=" + "%22%3E%3Cscript%3Ealert(9)%3C%2Fscript%3E"}, "400")} {
		made := eval[[]string](t, page, `[...document.querySelectorAll("script:not([src^='/assets/']), img:not([src^='/assets/']), svg[onload], [onerror], [onfocus], [autofocus], [style], iframe, a[href^='javascript:']")].map((e) => e.outerHTML)`)
		if len(made) > 0 {
			t.Errorf("%s: texts became elements: %q", page.name, made)
		}
	}
	if text := eval[string](t, all, `document.getElementById("done").textContent`); strings.Count(text, evil) < 3 {
		t.Errorf("hostile texts are not shown as they are: %q", text)
	}
}

// loadLongHistory opens the page where ten thousand pushes have finished.
func loadLongHistory(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{})
	r := prepareWatched(t, reg.URL, nil)
	var pushes []map[string]any
	for n := range 10_000 {
		pushes = append(pushes, keptPush(n, map[string]any{"blobs": everyBlob("w")[4:8]}))
	}
	kept(t, r, pushes...)
	r.start(t)
	address := "http://" + r.config.StatusListen[0]
	var paints []float64
	page := openTab(t, b, parts.BrowserTab{URL: address})
	// Other tests take their share of the machine: the best counts.
	for began := time.Now(); len(paints) < 3 || slices.Min(paints) > 1000 && time.Since(began) < patience; {
		if err := b.Open(page.name, parts.BrowserTab{URL: address}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, page, `performance.getEntriesByName("first-contentful-paint").length`)
		paints = append(paints, eval[float64](t, page, `performance.getEntriesByName("first-contentful-paint")[0].startTime`))
		if n := eval[int](t, page, `document.querySelectorAll("#done tbody").length`); n != 50 {
			t.Errorf("%d finished pushes are listed", n)
		}
	}
	t.Logf("first paint with 10,000 finished pushes: %.0f ms", slices.Min(paints))
	if slices.Min(paints) > 1000 {
		t.Errorf("first paint after %.0f ms", paints)
	}
	names := regexp.MustCompile(`<span class="tag" data-f="reference">(:[^<]+)`)
	for _, c := range []struct{ path, first, last string }{
		{"/", ":v9999", ":v9950"},
		{"/?before=kept9950", ":v9949", ":v9900"},
		{"/?before=kept20", ":v19", ":v0"},
		{"/?q=v7777", ":v7777", ":v7777"},
		{"/?q=" + digestOf([]byte{1, 1})[:20], ":v257", ":v257"},
		{"/?q=kept/app3&limit=2&state=done", ":v9999", ":v9982"},
		{"/?state=failed", "", ""},
	} {
		var got []string
		for _, found := range names.FindAllSubmatch(api{url: address}.want(t, http.StatusOK, "GET", c.path, nil).body, -1) {
			got = append(got, string(found[1]))
		}
		if len(got) == 0 && c.first != "" || len(got) > 0 && (got[0] != c.first || got[len(got)-1] != c.last) {
			t.Errorf("%s lists %q, not %s to %s", c.path, got, c.first, c.last)
		}
	}
	if err := b.Open(page.name, parts.BrowserTab{URL: address + "/?q=kept/app3&limit=20"}); err != nil {
		t.Fatal(err)
	}
	leave(t, page, `document.querySelector('.pages [rel="next"]').click()`)
	waitFor(t, page, `location.search.includes("before=") && document.querySelectorAll("#done tbody").length === 20 && document.querySelector('.pages [rel="first"]')`)
}
