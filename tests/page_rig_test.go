package tests

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// eval returns the value of a JavaScript expression in a tab.
func eval[T any](t *testing.T, page tab, script string) T {
	t.Helper()
	var value T
	if err := page.b.Eval(page.name, script, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// waitFor waits until a JavaScript expression is true.
func waitFor(t *testing.T, page tab, most time.Duration, script string) {
	t.Helper()
	poll(t, most, script, func() bool { return eval[bool](t, page, "!!("+script+")") })
}

// live waits until the page is connected.
func (p tab) live(t *testing.T) {
	t.Helper()
	waitFor(t, p, 10*time.Second, `document.getElementById("live").dataset.state === "live"`)
}
