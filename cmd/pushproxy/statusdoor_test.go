//go:build unix

package main

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/status"
	"pushproxy/upstream/upstreamtest"
)

// ops are the requests that the upstream has had since it was asked last, as
// steps name them.
func (s *served) ops() (list []string) {
	for _, q := range s.reg.Log() {
		switch {
		case q.Path == "/v2/" || q.Path == "/token":
			list = append(list, "token")
		case strings.Contains(q.Path, "/manifests/"):
			list = append(list, "manifest")
		case strings.Contains(q.Path, "/tags/"):
			list = append(list, "tags")
		case q.Method == http.MethodHead:
			list = append(list, "head")
		case q.Query.Get("mount") != "":
			list = append(list, "mount")
		case q.Method == http.MethodPost:
			list = append(list, "start")
		default:
			list = append(list, "upload")
		}
	}
	s.reg.Reset()
	slices.Sort(list)
	return list
}

// last returns the push that finished last, with its steps.
func (s *served) last() (p status.Push) {
	s.t.Helper()
	var list struct{ Pushes []status.Push }
	deadline := time.Now().Add(10 * time.Second)
	for len(list.Pushes) == 0 || list.Pushes[0].State == "" {
		if time.Now().After(deadline) {
			s.t.Fatal("no push has finished")
		}
		if err := overSocket(s.dir).order(s.t.Context(), "GET", "/v1/pushes?limit=1", &list); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := overSocket(s.dir).order(s.t.Context(), "GET", "/v1/pushes/"+list.Pushes[0].ID, &p); err != nil {
		s.t.Fatal(err)
	}
	return p
}

func TestTheExplanationOfAPushIsTheUpstreamsOwnLog(t *testing.T) {
	s := serveQueue(t)
	s.reg.Auth = &upstreamtest.Auth{Username: "bob", Password: "secret", Bearer: true}
	file := filepath.Join(os.Getenv("HOME"), ".docker", "config.json")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	login := base64.StdEncoding.EncodeToString([]byte("bob:secret"))
	if err := os.WriteFile(file, []byte(`{"auths":{"registry.test":{"auth":"`+login+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(what string, state status.State) status.Push {
		t.Helper()
		// What is not needed any more is cancelled behind the answer's back.
		var p status.Push
		var told, want []string
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			p, told = s.last(), nil
			for _, step := range p.Steps {
				if step.Op != "decide" {
					told = append(told, step.Op)
				}
			}
			slices.Sort(told)
			if want = append(want, s.ops()...); len(told) >= len(want) && p.State == state {
				break
			}
		}
		slices.Sort(want)
		if !slices.Equal(told, want) || p.State != state {
			t.Errorf("%s: %s, told %q, the upstream had %q", what, p.State, told, want)
		}
		return p
	}
	d := s.push("acme/app", "v1", strings.Repeat("a layer ", 20_000))
	p := check("a first push", status.Done)
	if p.Digest != d.String() || !strings.HasPrefix(p.Credential, "bob from") || p.Agent == "" || p.Blobs[0].Received != 160_000 {
		t.Errorf("the push: %+v", p)
	}
	s.push("acme/second", "v1", strings.Repeat("a layer ", 20_000))
	if p = check("a mount", status.Done); p.Sum.Mounted != 1 {
		t.Errorf("the mounted push: %+v", p)
	}
	s.push("acme/app", "v1", strings.Repeat("a layer ", 20_000))
	check("an unchanged push", status.Unchanged)

	audit, err := os.ReadFile(filepath.Join(s.dir, "audit.log"))
	if err != nil || !strings.Contains(string(audit), `"push":"`+p.ID+`"`) {
		t.Errorf("the audit log does not have the id %s: %v\n%s", p.ID, err, audit)
	}
	if out := s.must("status", p.ID); !strings.Contains(out, "mounted from acme/app") || strings.Contains(out, "secret") {
		t.Errorf("the explanation: %s", out)
	}
	s.stop()
	s.start()
	if again := s.last(); again.ID == "" || again.State != status.Unchanged {
		t.Errorf("after a restart: %+v", again)
	}
	if out := s.must("status", p.ID); !strings.Contains(out, "mounted from acme/app") {
		t.Errorf("the explanation after a restart: %s", out)
	}
	if info, err := os.Stat(filepath.Join(s.dir, "pushes.jsonl")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}
}

func TestAQueuedPushsIDIsInTheJournalAndTheAudit(t *testing.T) {
	s := serveQueue(t)
	s.broken.Store(503)
	s.push("queued/app", "v1", "one")
	var now status.Snapshot
	if err := overSocket(s.dir).order(t.Context(), "GET", "/v1/status", &now); err != nil || len(now.Queue) != 1 || now.Queue[0].Push == "" {
		t.Fatalf("the queue: %+v, %v", now.Queue, err)
	}
	id := now.Queue[0].Push
	s.stop()
	s.start()
	if err := overSocket(s.dir).order(t.Context(), "GET", "/v1/status", &now); err != nil || len(now.Queue) != 1 || now.Queue[0].Push != id {
		t.Errorf("after a restart: %+v, %v", now.Queue, err)
	}
	s.broken.Store(0)
	s.must("wait", "registry.test/queued/app:v1")
	if p := s.last(); p.ID != id || p.State != status.Done || !p.Async {
		t.Errorf("in the end: %+v", p)
	}
	audit, _ := os.ReadFile(filepath.Join(s.dir, "audit.log"))
	var line struct{ Msg, Push string }
	if err := json.Unmarshal(audit[:strings.IndexByte(string(audit), '\n')], &line); err != nil || line.Push != id || line.Msg != "queued" {
		t.Errorf("the audit log: %+v, %v", line, err)
	}
}

func TestTheDefaultStatusPortThatIsTakenIsAWarning(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, chosen := range []bool{false, true} {
		log := &readyLog{ready: make(chan struct{})}
		c := Config{StatusListen: []string{taken.Addr().String()}, statusChosen: chosen}
		listeners, err := listenStatus(c, newLogger(LogConfig{Level: "info"}, log))
		if chosen {
			if err == nil || !strings.Contains(err.Error(), "status_listen") || !strings.Contains(err.Error(), taken.Addr().String()) {
				t.Errorf("chosen: %v", err)
			}
			continue
		}
		if err != nil || len(listeners) != 0 || !strings.Contains(log.String(), taken.Addr().String()) {
			t.Errorf("by default: %v, %v, %s", listeners, err, log)
		}
	}
	clean(t)
	for _, args := range [][]string{{}, {"--status-listen", "127.0.0.1:0"}} {
		c, err := load(t, "", args...)
		if err != nil || c.statusChosen != (len(args) > 0) {
			t.Errorf("%q: %v, %v", args, c.statusChosen, err)
		}
	}
	if c, err := load(t, "status_listen: []"); err != nil || !c.statusChosen || len(c.StatusListen) != 0 {
		t.Errorf("none: %+v, %v", c.StatusListen, err)
	}
	t.Setenv("PUSHPROXY_STATUS_LISTEN", "127.0.0.1:1")
	if c, err := load(t, ""); err != nil || !c.statusChosen || !slices.Equal(c.StatusListen, []string{"127.0.0.1:1"}) {
		t.Errorf("by a variable: %+v, %v", c.StatusListen, err)
	}
}
