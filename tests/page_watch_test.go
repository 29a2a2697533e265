package tests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// sampler writes down, at every frame, what the page says of each blob of each push in flight, whenever that is new.
const sampler = `(() => {
  const log = window.samples = [], last = new Map();
  const look = () => {
    for (const card of document.querySelectorAll("article.push")) {
      for (const row of card.querySelectorAll(".blob")) {
        const [received, sent] = row.querySelectorAll("progress"), text = (f) => row.querySelector('[data-f="' + f + '"]').textContent;
        const sample = { push: card.dataset.key, image: card.querySelector("h3").textContent, digest: row.dataset.digest, key: row.dataset.key,
          state: text("state"), detail: text("detail"), received: received.value, sent: sent.value, most: sent.max };
        const said = JSON.stringify(sample), place = card.dataset.key + " " + row.dataset.key;
        if (last.get(place) !== said) { last.set(place, said); log.push(sample); }
      }
    }
    requestAnimationFrame(look);
  };
  addEventListener("DOMContentLoaded", look);
})();`

// sample is what the page said of a blob at one moment.
type blobSample struct {
	Push, Image, Digest, Key, State, Detail string
	Received, Sent, Most                    float64
}

func (p tab) samples(t *testing.T) []blobSample {
	t.Helper()
	return eval[[]blobSample](t, p, "window.samples")
}

// pushShown is a push as the status API has it, as far as the checks look.
type pushShown struct {
	ID, State, Why, Digest, Agent string
	Blobs                         []struct {
		Digest, State, Why string
		Size, Sent         int64
		Again              int
	}
	Sum struct {
		Existed, Mounted, Uploaded, Requests int
		SentBytes                            int64 `json:"sent_bytes"`
	}
	Steps []struct {
		Blob, Op, Text string
		Code           int
		Bytes          int64
	}
}

// finishedPush returns the newest finished push of a repository, with its steps, from the API.
func finishedPush(t *testing.T, address, repo string) pushShown {
	t.Helper()
	var list struct{ Pushes []pushShown }
	get := func(path string, into any) {
		got := api{url: address}.want(t, http.StatusOK, "GET", path, nil)
		if err := json.Unmarshal(got.body, into); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the push of "+repo+" among the finished ones", func() bool {
		get("/v1/pushes?q="+repo, &list)
		return len(list.Pushes) > 0
	})
	var push pushShown
	get("/v1/pushes/"+list.Pushes[0].ID, &push)
	return push
}

// slowBodies lets the upstream take bodies no faster than this.
func slowBodies(bytesPerSecond int) func(http.ResponseWriter, *http.Request) bool {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Body != nil && (r.Method == "PUT" || r.Method == "PATCH") {
			r.Body = &slowReading{ReadCloser: r.Body, rate: bytesPerSecond, began: time.Now()}
		}
		return false
	}
}

type slowReading struct {
	io.ReadCloser
	rate, n int
	began   time.Time
}

func (b *slowReading) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), 64<<10)])
	b.n += n
	due := b.began.Add(time.Duration(b.n) * time.Second / time.Duration(b.rate))
	if wait := time.Until(due); wait > 0 {
		<-time.After(wait)
	}
	return n, err
}

// pageImage is an image of a small and a large layer.
func pageImage(t *testing.T, seed byte) sample {
	t.Helper()
	l := newLayout(t, shortDir(t)) // podman wants no capital letters in it
	return sample{dir: l.dir, single: l.tag("single", l.image("amd64", l.layer(seed, 100_000), l.layer(seed+1, 16_000_000)))}
}

func dockerOnce(t *testing.T, s sample, ref string) string {
	c := newDocker(t, t.TempDir(), "").(docker)
	c.load(t, s, s.single, ref)
	return c.pushLoaded(t, ref)
}

func podmanOnce(t *testing.T, s sample, ref string) string {
	c := newPodman(t, t.TempDir(), "").(podman)
	run, file := c.in(t, c.store), filepath.Join(t.TempDir(), "digest")
	run("push", "--tls-verify=false", "--digestfile="+file, lastLine(run("pull", "-q", "oci:"+s.dir+":single")), "docker://"+ref)
	return strings.TrimSpace(readFile(t, file))
}

func skopeoOnce(t *testing.T, s sample, ref string) string {
	command{env: cleanEnv(t.TempDir())}.run(t, system(t, "skopeo"), "--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false",
		"oci:"+s.dir+":single", "docker://"+ref)
	return s.single.Digest
}

// watchPush follows one push by a real client: the bars move, never back, and end where the upstream says they do; then
// every request of the upstream's log is among the steps of the push's page, and nothing else is.
func watchPush(t *testing.T, b *parts.Browser, push func(*testing.T, sample, string) string) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	rec.setRule(slowBodies(8_000_000)) // the system takes some megabytes at once, in its buffers
	r, address := startWatched(t, rec.URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address, Early: sampler})
	page.live(t)
	digest := push(t, pageImage(t, 90), r.ref("acme/app", "v1"))
	waitFor(t, page, `document.querySelector('#done tbody[data-state="done"]') && !document.querySelector("article.push")`)

	moved := wantHonestBars(t, page.samples(t))
	if moved < 3 {
		t.Errorf("the bar of the large layer moved %d times", moved)
	}
	shown := finishedPush(t, address, "acme/app")
	if shown.Digest != digest || shown.State != "done" {
		t.Errorf("the client pushed %s; shown is %s, %s", digest, shown.Digest, shown.State)
	}
	row := eval[string](t, page, `document.querySelector("#done tbody").innerText`)
	for _, want := range []string{"acme/app", ":v1", "done", fmt.Sprintf("%d ·", shown.Sum.Uploaded)} {
		if !strings.Contains(row, want) {
			t.Errorf("the finished push reads %q, without %q", row, want)
		}
	}
	wantExplained(t, rec.requests(), shown)
	wantStepsOnPage(t, b, address, shown)
}

// wantHonestBars checks the samples of pushes in which nothing is sent twice, and returns how many times the bar moved that
// moved most.
func wantHonestBars(t *testing.T, samples []blobSample) (moved int) {
	t.Helper()
	places := map[string][]blobSample{}
	for _, s := range samples {
		places[s.Push+" "+s.Key] = append(places[s.Push+" "+s.Key], s)
	}
	for blob, list := range places {
		seen := map[string]bool{}
		for i, s := range list {
			if i > 0 && s.Sent < list[i-1].Sent {
				t.Errorf("%s: the bar went back from %.0f to %.0f: %s %s", blob, list[i-1].Sent, s.Sent, s.State, s.Detail)
			}
			if i > 0 && s.State != "Pushed" && s.Received < list[i-1].Received {
				t.Errorf("%s: what is received went back from %.0f to %.0f: %s %s", blob, list[i-1].Received, s.Received, s.State, s.Detail)
			}
			if s.Sent > s.Most || s.Received > s.Most {
				t.Errorf("%s: %.0f and %.0f of %.0f", blob, s.Received, s.Sent, s.Most)
			}
			if strings.Contains(s.Detail, "upstream") { // the words move where the length is not known yet, and so no bar does
				seen[s.Detail] = true
			}
			if s.Sent == s.Most && s.State != "Pushed" && s.State != "Pushing" {
				t.Errorf("%s: its bar is full and it is %s", blob, s.State)
			}
		}
		moved = max(moved, len(seen))
	}
	return moved
}

// wantExplained compares the steps of a push with what the upstream was asked.
func wantExplained(t *testing.T, log requests, push pushShown) {
	t.Helper()
	var asked, told []string
	for _, s := range log {
		if s.Path == "/v2/" { // whether it speaks the protocol; for no push in particular
			continue
		}
		asked = append(asked, fmt.Sprintf("%s %d", opOf(s), s.Status))
	}
	for _, s := range push.Steps {
		if s.Op != "decide" && s.Op != "token" {
			told = append(told, fmt.Sprintf("%s %d", s.Op, s.Code))
		}
	}
	slices.Sort(asked)
	slices.Sort(told)
	if !slices.Equal(asked, told) {
		t.Errorf("the upstream was asked\n  %s\nand the push tells of\n  %s\n%+v\n%s", strings.Join(asked, "\n  "), strings.Join(told, "\n  "), push.Steps, log)
	}
	if push.Sum.Requests != len(told) {
		t.Errorf("%d requests are counted, %d told of", push.Sum.Requests, len(told))
	}
}

// opOf names a request as steps do.
func opOf(s seen) string {
	switch {
	case strings.HasSuffix(s.Path, "/tags/list"):
		return "tags"
	case strings.Contains(s.Path, "/manifests/"):
		return "manifest"
	case s.Method == "HEAD":
		return "head"
	case s.Method == "POST" && strings.Contains(s.Query, "mount="):
		return "mount"
	case s.Method == "POST":
		return "start"
	}
	return "upload"
}

// wantStepsOnPage checks that the push's own page has every step, and a row in the time line for every blob.
func wantStepsOnPage(t *testing.T, b *parts.Browser, address string, push pushShown) {
	t.Helper()
	page := openTab(t, b, parts.BrowserTab{URL: address + "/push/" + push.ID})
	texts := eval[[]string](t, page, `[...document.querySelectorAll(".steps .text")].map((e) => e.textContent)`)
	if len(texts) != len(push.Steps) {
		t.Errorf("%d of %d steps are on the page", len(texts), len(push.Steps))
	}
	for _, s := range push.Steps {
		if !slices.Contains(texts, s.Text) {
			t.Errorf("not on the page: %q", s.Text)
		}
	}
	if n := eval[int](t, page, `document.querySelectorAll("svg.timeline g.row").length`); n != len(push.Blobs) {
		t.Errorf("%d of %d blobs are in the time line", n, len(push.Blobs))
	}
	if n := eval[int](t, page, `[...document.querySelectorAll("svg.timeline g.row rect.uploading")].filter((r) => r.getBoundingClientRect().width > 0).length`); n < push.Sum.Uploaded {
		t.Errorf("%d of %d uploads are drawn", n, push.Sum.Uploaded)
	}
}

// pushPlainly pushes an image of one layer by plain requests, and returns the status of its manifest.
func pushPlainly(t testing.TB, r *rig, repo, tag string, layer []byte) answer {
	t.Helper()
	a := api{url: r.URL}
	name := upstreamName + "/" + repo
	content := artifactOf(t, a.pushBlob(t, name, []byte("{}")), a.pushBlob(t, name, layer))
	return a.do(t, "PUT", "/v2/"+name+"/manifests/"+tag, content, "Content-Type", typeManifest, "User-Agent", "plain/1.0")
}

// watchRetry lets the upstream refuse the first bodies, and looks what the page says meanwhile.
func watchRetry(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	var refused atomic.Int32
	rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		if (r.Method == "PUT" || r.Method == "PATCH") && uploadPath.MatchString(r.URL.Path) && r.ContentLength != 0 && refused.Add(1) <= 3 {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the basement is flooded", http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	r, address := startWatched(t, rec.URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address, Early: sampler})
	page.live(t)
	if got := pushPlainly(t, r, "acme/retry", "v1", randomBytes(91, 300_000)); got.StatusCode != http.StatusCreated {
		t.Fatalf("the push: %v", got)
	}
	waitFor(t, page, `document.querySelector('#done tbody[data-state="done"]')`)
	said := ""
	for _, s := range page.samples(t) {
		if s.State == "Retrying" {
			said += s.Detail + "\n"
		}
	}
	if !strings.Contains(said, "503") || !strings.Contains(said, "in 1 s") {
		t.Errorf("while it retried the page said %q", said)
	}
	wantExplained(t, rec.requests(), finishedPush(t, address, "acme/retry"))
}

// watchFailure lets the upstream refuse for good.
func watchFailure(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PUT" || !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"this team may not write on Saturdays"}]}`)
		return true
	})
	r, address := startWatched(t, rec.URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address})
	page.live(t)
	if got := pushPlainly(t, r, "acme/refused", "v1", randomBytes(92, 300_000)); got.StatusCode != http.StatusForbidden {
		t.Fatalf("the push: %v", got)
	}
	waitFor(t, page, `document.querySelector('#done tbody[data-state="failed"]')`)
	row := eval[string](t, page, `document.querySelector('#done tbody[data-state="failed"]').innerText`)
	for _, want := range []string{"acme/refused", "this team may not write on Saturdays", upstreamName} {
		if !strings.Contains(row, want) {
			t.Errorf("the failed push reads %q, without %q", row, want)
		}
	}
	shown := finishedPush(t, address, "acme/refused")
	wantExplained(t, rec.requests(), shown)
	wantStepsOnPage(t, b, address, shown)
}

// moveBars gives the page's own code messages about one blob, in an order in which they would come late, and looks where
// the bars are.
func moveBars(t *testing.T, b *parts.Browser) {
	_, address := startWatched(t, startRegistry(t, parts.RegistryConfig{}).URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address})
	got := eval[[]string](t, page, `import("/assets/rows.js").then((rows) => {
  const card = rows.make("push"), places = [];
  for (const blob of [
    { upload: "u", size: -1, received: 70, sent: 0, state: "Receiving" },
    { upload: "u", digest: "sha256:d", size: 100, received: 100, sent: 30, state: "Pushing" },
    { digest: "sha256:d", size: 100, received: 100, sent: 60, state: "Pushing" },
    { digest: "sha256:d", size: 100, received: 90, sent: 40, state: "Pushing" },
    { digest: "sha256:d", size: 100, received: 100, sent: 10, again: 1, state: "Pushing" },
    { digest: "sha256:d", size: 100, received: 100, sent: 5, again: 1, state: "Pushing" },
    { digest: "sha256:d", size: 100, received: 100, sent: 100, again: 1, state: "Pushed" },
  ]) {
    rows.fillPush(card, { id: "p", upstream: "h", repository: "r", state: "pushing", sum: {}, blobs: [blob] }, Date.now());
    const [received, sent] = card.querySelectorAll("progress");
    places.push([card.querySelectorAll(".blob").length, received.position < 0 ? "?" : received.value, sent.value].join(" "));
  }
  return places;
})`)
	if want := []string{"1 ? 0", "1 100 30", "1 100 60", "1 100 60", "1 100 10", "1 100 10", "1 0 100"}; !slices.Equal(got, want) {
		t.Errorf("rows, received and sent were %q, want %q", got, want)
	}
}

// watchAgain cuts an upload in its middle: the bar may then go back, and the row says that it is sent again.
func watchAgain(t *testing.T, b *parts.Browser) {
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	slow := slowBodies(4_000_000)
	var cut atomic.Bool
	rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		slow(w, r)
		if (r.Method == "PUT" || r.Method == "PATCH") && uploadPath.MatchString(r.URL.Path) && (r.ContentLength < 0 || r.ContentLength > 1_000_000) && !cut.Swap(true) {
			_, _ = io.CopyN(io.Discard, r.Body, 1_000_000)
			panic(http.ErrAbortHandler)
		}
		return false
	})
	r, address := startWatched(t, rec.URL, nil)
	page := openTab(t, b, parts.BrowserTab{URL: address, Early: sampler})
	page.live(t)
	if got := pushPlainly(t, r, "acme/again", "v1", randomBytes(93, 3_000_000)); got.StatusCode != http.StatusCreated {
		t.Fatalf("the push: %v", got)
	}
	waitFor(t, page, `document.querySelector('#done tbody[data-state="done"]')`)
	high, back := map[string]float64{}, false
	for _, s := range page.samples(t) {
		if s.Sent < high[s.Key] {
			back = true
			if !strings.Contains(s.Detail, "sent again") && s.State != "Retrying" {
				t.Errorf("the bar went back from %.0f to %.0f, and all that is said is %q", high[s.Key], s.Sent, s.State+" "+s.Detail)
			}
		}
		high[s.Key] = max(s.Sent, 0)
	}
	shown := finishedPush(t, address, "acme/again")
	again := 0
	for _, blob := range shown.Blobs {
		again += blob.Again
	}
	if again == 0 {
		t.Errorf("an upload that was cut and begun anew is not said to be sent again (the bar went back: %t): %+v", back, shown.Blobs)
	}
}
