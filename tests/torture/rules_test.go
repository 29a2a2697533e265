package torture

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// image pushes an image with blobs of the given sizes, in bytes.
func (c *Client) image(tag string, async bool, sizes ...int) (Push, error) {
	var blobs [][]byte
	for _, size := range sizes {
		blobs = append(blobs, c.bytes(size))
	}
	return c.push(tag, async, blobs)
}

func (r *rig) eventually(most time.Duration, what string, is func() bool) {
	r.t.Helper()
	for began := time.Now(); !is(); <-time.After(20 * time.Millisecond) {
		if time.Since(began) > most {
			r.t.Fatalf("after %s in vain for: %s\n%s", most, what, r.running.Output())
		}
	}
}

func (r *rig) has(p Push) bool {
	is, _ := r.model.Tag(p.Repo, p.Tag)
	return is == p.Digest
}

func TestNothingIsSentInQuietHours(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 1, 1<<20)
	now := time.Now()
	r.config.Upstreams[0].QuietHours = []string{now.Add(-time.Hour).Format("15:04") + "-" + now.Add(2*time.Hour).Format("15:04")}
	r.config.Upstreams[0].Mode = "async"
	r.write()
	r.start()
	p, err := r.clients[0].Push(true)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(1500 * time.Millisecond)
	if all, _ := r.model.Received(); all > 0 || r.has(p) || len(r.queue()) != 1 {
		t.Errorf("%d bytes were sent in quiet hours", all)
	}
	// A client that waits is not held up.
	if p, err := r.clients[0].Push(false); err != nil || !r.has(p) {
		t.Errorf("a push whose client waits: %v", err)
	}
	r.stopped(nil)
	r.config.Upstreams[0].QuietHours = []string{now.Add(2*time.Hour).Format("15:04") + "-" + now.Add(3*time.Hour).Format("15:04")}
	r.write()
	r.start()
	r.drained(10 * time.Second)
	r.verdict()
}

func TestAnUpstreamIsSentToAsItsConfigurationSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit func(*rig)
		check func(*rig, time.Duration) string
	}{
		"bytes a second": {func(r *rig) { r.config.Upstreams[0].Bandwidth = "3MB" }, func(r *rig, took time.Duration) string {
			if all, _ := r.model.Received(); took < time.Duration(float64(all-1<<20)/3e6*float64(time.Second)) {
				return fmt.Sprintf("%d bytes took %s", all, took)
			}
			return ""
		}},
		"uploads at once": {func(r *rig) { r.config.Upstreams[0].Concurrency, r.model.Pace = 2, 5*time.Millisecond }, func(r *rig, _ time.Duration) string {
			if most, _ := r.model.Most(); most != 2 {
				return fmt.Sprintf("%d at once", most)
			}
			return ""
		}},
		"bytes of a chunk": {func(r *rig) { r.config.Upstreams[0].ChunkSize, r.config.Upstreams[0].MaxBody = "256KiB", "512KiB" }, func(r *rig, _ time.Duration) string {
			if _, largest := r.model.Most(); largest == 0 || largest > 256<<10 {
				return fmt.Sprintf("a request of %d bytes", largest)
			}
			return ""
		}},
		"bytes of a request": {func(r *rig) { r.config.Upstreams[0].MaxBody = "512KiB" }, func(r *rig, _ time.Duration) string {
			if _, largest := r.model.Most(); largest == 0 || largest > 512<<10 {
				return fmt.Sprintf("a request of %d bytes", largest)
			}
			return ""
		}},
		"a body that the upstream refuses": {func(r *rig) { r.model.MaxBody = 512 << 10 }, func(r *rig, _ time.Duration) string {
			if _, largest := r.model.Most(); largest == 0 || largest > 512<<10 {
				return fmt.Sprintf("a request of %d bytes", largest)
			}
			return ""
		}},
	} {
		for _, async := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, async %t", name, async), func(t *testing.T) {
				r := newRig(t, "", 1, 1)
				c.limit(r)
				if async {
					r.config.Upstreams[0].Mode = "async"
				}
				r.write()
				r.start()
				began := time.Now()
				p, err := r.clients[0].image("v1", async, 1<<20, 2<<20, 800<<10, 5<<20)
				if err != nil {
					t.Fatal(err)
				}
				r.eventually(30*time.Second, "the push", func() bool { return r.has(p) })
				if wrong := c.check(r, time.Since(began)); wrong != "" {
					t.Error(wrong)
				}
				r.verdict()
			})
		}
	}
}

// hook is a webhook's end-point.
type hook struct {
	mu      sync.Mutex
	calls   int
	events  []string // event and tag
	answers func(n int, w http.ResponseWriter, r *http.Request)
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e struct {
		Event string
		Job   struct{ Tags []string }
	}
	err := json.NewDecoder(r.Body).Decode(&e)
	h.mu.Lock()
	h.calls++
	n := h.calls
	if err != nil || r.Method != http.MethodPost {
		e.Event = "not a POST with an event"
	}
	h.events = append(h.events, e.Event+" "+strings.Join(e.Job.Tags, ","))
	h.mu.Unlock()
	if h.answers != nil {
		h.answers(n, w, r)
	}
}

func (h *hook) told() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

func TestTheWebhookIsToldAndCannotHoldTheQueueUp(t *testing.T) {
	t.Parallel()
	status := func(code int) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	inside := &hook{}
	server := httptest.NewServer(inside)
	defer server.Close()
	for name, c := range map[string]struct {
		answers func(n int, w http.ResponseWriter, r *http.Request)
		told    []string // at least
	}{
		"that works": {nil, []string{"done v0", "done v1", "done v2"}},
		"that works at the third try": {func(n int, w http.ResponseWriter, _ *http.Request) {
			if n < 3 {
				w.WriteHeader(500)
			}
		}, []string{"done v0", "done v0", "done v0", "done v1", "done v2"}},
		"that never answers": {func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, []string{"done v0"}},
		"that refuses":       {status(403), []string{"done v0", "done v0"}},
		"that breaks off":    {func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, []string{"done v0", "done v0"}},
		"that leads elsewhere": {func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, server.URL, http.StatusTemporaryRedirect)
		}, []string{"done v0", "done v0"}},
		"that answers without end": {func(_ int, w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, []string{"done v0", "done v1", "done v2"}},
		"with headers without end": {func(_ int, w http.ResponseWriter, r *http.Request) {
			for i := range 20 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 60<<10))
			}
		}, []string{"done v0", "done v0"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "", 1, 1)
			h := &hook{answers: c.answers}
			server := httptest.NewServer(h)
			t.Cleanup(func() {
				r.running.Stop()
				server.CloseClientConnections()
				server.Close()
			})
			r.config.Queue = &parts.Queue{Webhook: server.URL}
			r.write()
			r.start()
			for i := range 3 {
				if _, err := r.clients[0].image(fmt.Sprint("v", i), true, 1000); err != nil {
					t.Fatal(err)
				}
				r.drained(3 * time.Second)
			}
			r.eventually(10*time.Second, fmt.Sprint("the webhook is told of ", c.told), func() bool {
				told := h.told()
				return len(told) >= len(c.told) && slices.Equal(told[:len(c.told)], c.told)
			})
			r.healthy()
			if used := r.usage(); used.anonMiB > 150 {
				t.Errorf("it takes %d MiB", used.anonMiB)
			}
			r.verdict()
		})
	}
	if told := inside.told(); len(told) > 0 {
		t.Errorf("a redirect was followed: %v", told)
	}
}

func TestTheWebhookIsToldWhenAPersonIsNeeded(t *testing.T) {
	t.Parallel()
	r := newRig(t, "", 1, 1)
	h := &hook{}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	r.config.Queue = &parts.Queue{Webhook: server.URL}
	r.write()
	r.model.Fault = func(q *http.Request) Fault {
		if strings.Contains(q.URL.Path, "/manifests/v1") && q.Method == http.MethodPut {
			return 400
		}
		return None
	}
	r.start()
	if _, err := r.clients[0].image("v1", true, 1000); err != nil {
		t.Fatal(err)
	}
	r.eventually(30*time.Second, "the webhook is told that it failed", func() bool { return slices.Equal(h.told(), []string{"failed v1"}) })
	if jobs := r.queue(); len(jobs) != 1 || jobs[0].State != "parked" || jobs[0].Error == "" {
		t.Errorf("the queue is %+v", jobs)
	}
}

func TestAJobGoesOnByItselfWhenItsCredentialIsBack(t *testing.T) {
	t.Parallel()
	const account = `{"auths":{"registry.test":{"username":"` + User + `","password":"` + Password + `"}}}`
	helper := func(secret string) string {
		return "#!/bin/sh\ncat >/dev/null\necho '{\"ServerURL\":\"registry.test\",\"Username\":\"" + User + "\",\"Secret\":\"" + secret + "\"}'\n"
	}
	for name, c := range map[string]struct {
		config     string
		helper     string
		gone, back func(*rig) error
		again      string // the password, once it is back
		says       string
	}{
		"the docker config was rewritten": {
			config: account,
			gone:   func(r *rig) error { return r.account(`{"auths":{}}`) },
			back:   func(r *rig) error { return r.account(account) },
			says:   "not the one that this push was accepted with",
		},
		"the helper works again, with a new token": {
			config: `{"credHelpers":{"registry.test":"torture"}}`, helper: helper(Password),
			gone:  func(r *rig) error { return r.helper("#!/bin/sh\nexit 1\n") },
			back:  func(r *rig) error { return r.helper(helper("another horse")) },
			again: "another horse", says: "docker-credential-torture",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "", 1, 1)
			r.model.TokenLife = 5 * time.Second
			var down faults
			r.model.Fault = down.decide
			r.env[1] = "PATH=" + r.dir + ":" + os.Getenv("PATH")
			if err := errors.Join(r.account(c.config), r.helper(c.helper)); err != nil {
				t.Fatal(err)
			}
			r.start()
			if _, err := r.clients[0].image("v0", false, 1000); err != nil {
				t.Fatalf("with its credential: %v", err)
			}
			down.set(always(503)(newChance()))
			p, err := r.clients[0].image("v1", true, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.gone(r); err != nil {
				t.Fatal(err)
			}
			if c.again != "" {
				r.model.SetPassword(c.again)
			}
			<-time.After(time.Second)
			down.set(nil)
			r.eventually(time.Minute, "it says what it needs", func() bool {
				jobs := r.queue()
				return len(jobs) == 1 && jobs[0].State == "needs-auth" && strings.Contains(jobs[0].Error, c.says)
			})
			if r.has(p) {
				t.Error("it was sent without its credential")
			}
			if err := c.back(r); err != nil {
				t.Fatal(err)
			}
			r.eventually(15*time.Second, "it goes on", func() bool { return r.has(p) })
			r.drained(5 * time.Second)
			r.verdict()
		})
	}
}

// account replaces the docker config.
func (r *rig) account(text string) error {
	return os.WriteFile(filepath.Join(r.dir, "account", "config.json"), []byte(text), 0o600)
}

// helper replaces the credential helper; empty: there is none.
func (r *rig) helper(text string) error {
	if text == "" {
		return nil
	}
	path := filepath.Join(r.dir, "docker-credential-torture")
	temp := path + ".new"
	return errors.Join(os.WriteFile(temp, []byte(text), 0o700), os.Rename(temp, path))
}

func TestAnUploadThatWasCutOffGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	const size = 24 << 20
	for name, cut := range map[string]func(*rig, *faults){
		"by kill -9": func(r *rig, _ *faults) {
			r.running.Kill()
			r.start()
		},
		"by a stop": func(r *rig, _ *faults) {
			r.stopped(nil)
			r.start()
		},
		"by an upstream that goes away": func(r *rig, down *faults) {
			down.set(refusing(newChance()))
			r.model.CutAll()
			<-time.After(2 * time.Second)
			down.set(nil)
		},
		"by a token that expires": func(*rig, *faults) {},
	} {
		for way, how := range map[string]Way{"in one": InOne, "with its digest at the end": DigestEnd} {
			t.Run(name+" "+way, func(t *testing.T) {
				t.Parallel()
				if all := sentInAll(t, name, cut, size, how); all > size*11/10 {
					t.Errorf("%d bytes were sent of %d", all, size)
				}
			})
		}
	}
}

// sentInAll pushes an image, cuts its upload off and returns how many bytes were sent.
func sentInAll(t *testing.T, name string, cut func(*rig, *faults), size int64, way Way) int64 {
	r := newRig(t, "", 1, 1)
	r.model.TokenLife, r.model.Pace = 5*time.Second, 15*time.Millisecond
	if strings.Contains(name, "token") {
		r.config.Upstreams[0].MaxBody = "1MiB"
	}
	r.config.Upstreams[0].Mode = "async"
	r.write()
	r.clients[0].Way = way
	var down faults
	r.model.Fault = down.decide
	r.start()
	p, err := r.clients[0].image("v1", true, int(size))
	if err != nil {
		t.Fatal(err)
	}
	r.eventually(time.Minute, "a third of it is sent", func() bool {
		all, _ := r.model.Received()
		return all > size/3
	})
	cut(r, &down)
	r.eventually(time.Minute, "the push is there", func() bool { return r.has(p) })
	all, _ := r.model.Received()
	if _, expired := r.model.Tokens(); expired == 0 && strings.Contains(name, "token") {
		t.Error("no token expired")
	}
	r.drained(10 * time.Second)
	r.verdict()
	t.Logf("%.2f times", float64(all)/float64(size))
	return all
}
