package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// actWithoutScript reads the page, and drops and retries a queued push, in a browser that runs no script.
func actWithoutScript(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	down := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	rec.setRule(down)
	r, address := startWatched(t, rec.URL, nil)
	for _, tag := range []string{"keep", "drop"} {
		if got := pushQueued(t, r, "acme/queued", tag); got.StatusCode != http.StatusCreated {
			t.Fatalf("the queued push: %v", got)
		}
	}
	page := openTab(t, b, parts.BrowserTab{URL: address, NoScript: true})
	text := eval[string](t, page, `document.body.innerText`)
	for _, want := range []string{"Without JavaScript", "As of", "acme/queued", ":keep", ":drop"} {
		if !strings.Contains(text, want) {
			t.Errorf("without scripts the page reads %q, without %q", text, want)
		}
	}
	press := func(tag, action string) {
		t.Helper()
		leave(t, page, `[...document.querySelectorAll("#queue tr")].find((r) => r.textContent.includes(":`+tag+`")).querySelector('[data-f="`+action+`"] button').click()`)
	}
	press("drop", "drop")
	waitFor(t, page, `location.pathname === "/" && document.querySelectorAll("#queue tr").length === 1 && !document.getElementById("queue").textContent.includes(":drop")`)
	rec.setRule(nil)
	press("keep", "retry")
	waitFor(t, page, `location.pathname === "/" && document.querySelector("#store")`)
	poll(t, "the retried push upstream", func() bool {
		return upstreamAPI(reg).do(t, "HEAD", "/v2/acme/queued/manifests/keep", nil, "Accept", typeManifest).StatusCode == http.StatusOK
	})
	leave(t, page, `document.querySelector('form[action="/v1/gc"] button').click()`)
	waitFor(t, page, `location.pathname === "/" && document.querySelector("#store")`)
}

// pushQueued pushes an image of one small layer that is accepted before the upstream has it.
func pushQueued(t *testing.T, r *rig, repo, tag string) answer {
	t.Helper()
	a := api{url: r.URL}
	name := upstreamName + "/" + repo
	content := artifactOf(t, a.pushBlob(t, name, []byte("{}")), a.pushBlob(t, name, []byte("layer "+tag)))
	return a.do(t, "PUT", "/v2/"+name+"/manifests/"+tag+"?pushproxy-mode=async", content, "Content-Type", typeManifest)
}

func loadWithoutEventSource(t *testing.T, b *parts.Browser) {
	_, address := startWatched(t, startRegistry(t, parts.RegistryConfig{}).URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address, Early: "delete window.EventSource"})
	waitFor(t, page, `document.getElementById("live").dataset.state === "never"`)
	text := eval[string](t, page, `document.getElementById("live").innerText`)
	if !strings.Contains(text, "EventSource") || !strings.Contains(text, "As of") || !strings.Contains(text, "Reload") {
		t.Errorf("the page says %q", text)
	}
	leave(t, page, `document.getElementById("reload").click()`)
	waitFor(t, page, `document.getElementById("live").dataset.state === "never"`)
}

func watchRestart(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r, address := startWatched(t, reg.URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address}, "ERR_", "Failed to load resource")
	page.live(t)
	r.Stop()
	waitFor(t, page, `/^Not connected; shown as of \d\d:\d\d:\d\d\./.test(document.getElementById("live").innerText)`)
	r.start(t)
	if got := pushPlainly(t, r, "acme/after", "v1", randomBytes(95, 10_000)); got.StatusCode != http.StatusCreated {
		t.Fatalf("the push after the restart: %v", got)
	}
	page.live(t)
	waitFor(t, page, `[...document.querySelectorAll("#done .name")].some((e) => e.textContent === "acme/after")`)
}

func openUnknownPush(t *testing.T, b *parts.Browser) {
	_, address := startWatched(t, startRegistry(t, parts.RegistryConfig{}).URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address + "/push/gone"}, "404")
	text := eval[string](t, page, `document.querySelector("main").innerText`)
	if !strings.Contains(text, `no push "gone"`) || !strings.Contains(text, "All pushes") {
		t.Errorf("an unknown push reads %q", text)
	}
}

// audit lists what would be in the way of who uses neither mouse nor eyes, and texts that are too faint (WCAG 2.2, 1.4.3).
const audit = `(() => {
  const wrong = [], shown = (e) => e.checkVisibility() && !e.closest(".quiet");
  const name = (e) => (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent || "").trim();
  for (const e of document.querySelectorAll("a[href], button, input, select, progress:not([aria-hidden]), meter, nav, aside, section, svg[role=img]")) {
    if (e.checkVisibility() && !name(e)) wrong.push("has no name: " + e.outerHTML.slice(0, 120));
  }
  if (document.querySelectorAll("h1").length !== 1) wrong.push("headings of the first order: " + document.querySelectorAll("h1").length);
  let level = 1;
  for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
    if (h.checkVisibility() && +h.tagName[1] > level + 1) wrong.push("a heading is left out before " + h.textContent);
    if (h.checkVisibility()) level = +h.tagName[1];
  }
  for (const mark of ["main", "header"]) if (document.querySelectorAll("body > " + mark + ", body > * > " + mark).length !== 1) wrong.push("landmark " + mark);
  if (!document.documentElement.lang) wrong.push("no language");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push("id twice: " + id);
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color, under) => {
    canvas.globalCompositeOperation = "copy"; canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.globalCompositeOperation = "source-over"; canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const css = (c) => "rgb(" + c.slice(0, 3).join(" ") + ")";
  const back = (e) => {
    const chain = [];
    for (; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
    return chain.reduce((under, color) => css(rgba(color, under)), "white");
  };
  const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; (n = texts.nextNode());) {
    const e = n.parentElement;
    if (!n.data.trim() || !shown(e) || e.closest("svg, template, script, option")) continue;
    const under = back(e), opacity = +getComputedStyle(e).opacity, a = light(rgba(getComputedStyle(e).color, under)), b = light(rgba(under, "white"));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5 || opacity < 0.8) wrong.push(ratio.toFixed(2) + " contrast: " + n.data.trim().slice(0, 40) + " in " + e.className);
  }
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("wider than the window: " + document.documentElement.scrollWidth + " of " + innerWidth);
  return [...new Set(wrong)];
})()`

// readWithoutMouseAndEyes looks over both pages, light and dark, wide and narrow, and walks one by keyboard.
func readWithoutMouseAndEyes(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	r := prepareWatched(t, rec.URL, nil)
	long := "a-long-name/" + strings.Repeat("with-many-parts/", 8) + "app"
	kept(t, r, keptPush(1, map[string]any{"state": "failed", "why": "refused by " + strings.Repeat("x", 200), "repository": long}),
		keptPush(2, map[string]any{"state": "stopped"}), keptPush(3, map[string]any{"state": "unchanged"}),
		keptPush(4, map[string]any{"blobs": everyBlob("because"), "steps": []map[string]any{
			{"when": time.Now(), "op": "head", "text": "HEAD said 404", "code": 404}, {"when": time.Now(), "op": "upload", "text": "PUT said 503", "code": 503}}}))
	rec.setRule(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	r.start(t)
	address := "http://" + r.config.StatusListen[0]
	if got := pushQueued(t, r, "acme/queued", "v1"); got.StatusCode != http.StatusCreated {
		t.Fatalf("the queued push: %v", got)
	}
	page := openTab(t, b, parts.BrowserTab{URL: address})
	for _, how := range []parts.BrowserTab{
		{URL: "/", Scheme: "light"}, {URL: "/push/kept4", Scheme: "light"}, {URL: "/", Scheme: "dark"}, {URL: "/push/kept4", Scheme: "dark"},
		{URL: "/", Width: 360, Height: 800}, {URL: "/push/kept1", Width: 360, Height: 800}, {URL: "/", Width: 800, Height: 800}, {URL: "/"},
	} {
		where := fmt.Sprintf("%s %s %d", how.URL, how.Scheme, how.Width)
		how.URL = address + how.URL
		if err := b.Open(page.name, how); err != nil {
			t.Fatal(err)
		}
		page.live(t)
		for _, wrong := range eval[[]string](t, page, audit) {
			t.Errorf("%s: %s", where, wrong)
		}
	}
	seen := eval[string](t, page, `(() => { const e = document.querySelector("#q"); e.focus(); return getComputedStyle(e).outlineStyle; })()`)
	if seen == "none" {
		t.Error("what has the focus cannot be seen")
	}
}
