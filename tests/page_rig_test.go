package tests

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"pushproxy/tests/parts"
)

// TestThePageInABrowser runs the checks that need a browser: each in tabs of its own, all in one Chromium.
func TestThePageInABrowser(t *testing.T) {
	t.Parallel()
	chromium := system(t, "chromium")
	driver, err := parts.BrowserDriver(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := parts.StartBrowser(driver, chromium, cleanEnv(t.TempDir(), "TZ="+os.Getenv("TZ")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	for _, check := range []struct {
		name string
		run  func(*testing.T, *parts.Browser)
	}{
		{"what is asked of a page outlives it, and a click is one click", outlivePages},
		{"docker's push is watched to its end", func(t *testing.T, b *parts.Browser) { watchPush(t, b, dockerOnce) }},
		{"podman's push is watched to its end", func(t *testing.T, b *parts.Browser) { watchPush(t, b, podmanOnce) }},
		{"skopeo's push is watched to its end", func(t *testing.T, b *parts.Browser) { watchPush(t, b, skopeoOnce) }},
		{"a retry says why and when", watchRetry},
		{"a failure says why", watchFailure},
		{"what is sent anew says so, and only then goes a bar back", watchAgain},
		{"a message that is late moves no bar back", moveBars},
		{"the page as it changes reads as the page that is loaded", compareLiveWithLoaded},
		{"texts of others run no script", watchHostileTexts},
		{"ten thousand finished pushes are quick", loadLongHistory},
		{"without JavaScript it is a snapshot that can be acted on", actWithoutScript},
		{"without EventSource it says so", loadWithoutEventSource},
		{"a restart is noticed and made up for", watchRestart},
		{"an unknown push is explained", openUnknownPush},
		{"it can be read, by keyboard and screen reader too", readWithoutMouseAndEyes},
	} {
		t.Run(check.name, func(t *testing.T) {
			t.Parallel()
			check.run(t, b)
		})
	}
}

// startWatched is startRig with a status page; its address is r.page.
func startWatched(t testing.TB, upstreamURL string, change func(*rig)) (r *rig, address string) {
	t.Helper()
	r = prepareWatched(t, upstreamURL, change)
	r.start(t)
	return r, "http://" + r.config.StatusListen[0]
}

func prepareWatched(t testing.TB, upstreamURL string, change func(*rig)) *rig {
	t.Helper()
	return prepare(t, upstreamURL, func(r *rig) {
		r.config.StatusListen = []string{fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		if change != nil {
			change(r)
		}
	})
}

// tabs counts the tabs, so that each has a name of its own.
var tabs atomic.Int64

// tab is a tab of the browser with a page of pushproxy.
type tab struct {
	b    *parts.Browser
	name string
}

// openTab opens a page. When the test ends nothing may have happened in the tab that the page's policy forbids, no script
// may have failed, and no request may have left for elsewhere; expected are complaints that are part of the test.
func openTab(t *testing.T, b *parts.Browser, how parts.BrowserTab, expected ...string) tab {
	t.Helper()
	at, err := url.Parse(how.URL)
	if err != nil {
		t.Fatal(err)
	}
	page := tab{b, fmt.Sprintf("%s %d %s", t.Name(), tabs.Add(1), how.URL)}
	if err := b.Open(page.name, how); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		seen, err := b.Seen(page.name)
		if err != nil {
			t.Error(err)
		}
		for _, text := range seen.Dialogs {
			t.Errorf("a dialog was shown: %q", text)
		}
		for _, line := range seen.Console {
			if !containsOne(line, expected) {
				t.Errorf("the browser complains: %s", line)
			}
		}
		for _, address := range seen.Requests {
			if to, err := url.Parse(address); err != nil || to.Host != at.Host && to.Scheme != "data" {
				t.Errorf("the page asked for %s", address)
			}
		}
		if t.Failed() {
			picture := filepath.Join(os.TempDir(), "pushproxy-page-"+strings.ReplaceAll(t.Name(), "/", "-")+".png")
			if err := b.Picture(page.name, picture); err == nil {
				t.Logf("what the tab shows at the end: %s", picture)
			}
		}
		_ = b.Close(page.name)
	})
	return page
}

func containsOne(s string, of []string) bool {
	for _, part := range of {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}

// eval returns the value of a JavaScript expression in a tab. The expression only reads: where another page takes the place
// of the one that was asked, that one is asked. What clicks is leave's.
func eval[T any](t *testing.T, page tab, script string) T {
	t.Helper()
	var value T
	poll(t, "a page that stays to answer "+script, func() bool {
		err := page.b.Eval(page.name, script, &value)
		if err != nil && !errors.Is(err, parts.ErrReplaced) {
			t.Fatal(err)
		}
		return err == nil
	})
	return value
}

// waitFor waits until a JavaScript expression is true. A page that is just being loaded may lack what the expression speaks
// of, or make room for the next: that is not yet true.
func waitFor(t *testing.T, page tab, script string) {
	t.Helper()
	var last error
	defer func() {
		if t.Failed() && last != nil {
			t.Logf("the last answer was: %v", last)
		}
	}()
	poll(t, script, func() bool {
		var is bool
		last = page.b.Eval(page.name, "!!("+script+")", &is)
		if last != nil && !errors.Is(last, parts.ErrReplaced) && !errors.Is(last, parts.ErrThrown) {
			t.Fatal(last)
		}
		return last == nil && is
	})
}

// leave runs, once, what makes another page take the place of this one, which is loaded and on its way nowhere; it waits
// until the other is loaded.
func leave(t *testing.T, page tab, script string) {
	t.Helper()
	waitFor(t, page, `document.readyState === "complete"`)
	err := page.b.Eval(page.name, `(window.left = true, `+script+`, true)`, nil)
	if err != nil && !errors.Is(err, parts.ErrReplaced) { // replaced by what it began: nothing else could have
		t.Fatal(err)
	}
	waitFor(t, page, `!window.left && document.readyState === "complete"`)
}

// live waits until the page is connected.
func (p tab) live(t *testing.T) {
	t.Helper()
	waitFor(t, p, `document.getElementById("live").dataset.state === "live"`)
}

// outlivePages holds the functions above to what they say, on pages that replace each other all the time.
func outlivePages(t *testing.T, b *parts.Browser) {
	var posts atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts.Add(1)
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><form method="post"><button>again</button></form>`)
	}))
	t.Cleanup(server.Close)
	page := openTab(t, b, parts.BrowserTab{URL: server.URL})
	for _, to := range []string{"/a", "/b", "/c"} {
		if got := eval[string](t, page, `location.pathname === "`+to+`" ? location.pathname : (location.href = "`+to+`", new Promise(() => {}))`); got != to {
			t.Errorf("the page that follows says that it is %q, not %q", got, to)
		}
	}
	waitFor(t, page, `location.pathname === "/d" || (location.href = "/d", new Promise(() => {}).then.nothing.at.all)`)
	waitFor(t, page, `(window.times = (window.times || 0) + 1) > 2 || document.getElementById("late").hidden`)
	for _, how := range []parts.BrowserTab{{URL: server.URL}, {URL: server.URL, NoScript: true}} {
		posts.Store(0)
		page = openTab(t, b, how)
		for range 5 {
			leave(t, page, `document.querySelector("button").click()`)
		}
		if n := posts.Load(); n != 5 {
			t.Errorf("5 clicks posted %d forms", n)
		}
	}
}
