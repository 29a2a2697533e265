package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// diagnosis is what `pushproxy doctor --json` prints.
type diagnosis struct {
	Healthy bool
	Checks  []struct{ Subject, Check, Status, Text string }
}

// doctor runs the command for one repository; its exit status must agree with what it prints.
func (d *doors) doctor(t *testing.T, args ...string) diagnosis {
	t.Helper()
	stdout, stderr, err := d.run(t, append([]string{"doctor", "--json"}, args...)...)
	var got diagnosis
	if jsonErr := json.Unmarshal([]byte(stdout), &got); jsonErr != nil {
		t.Fatalf("doctor --json: %v, %v\n%s\n%s", err, jsonErr, stdout, stderr)
	}
	if got.Healthy != (err == nil) {
		t.Errorf("doctor says healthy=%v and ends with %v", got.Healthy, err)
	}
	return got
}

// status returns what a check came to, and its text.
func (g diagnosis) status(check string) (status, text string) {
	for _, c := range g.Checks {
		if c.Check == check {
			return c.Status, c.Text
		}
	}
	return "absent", ""
}

func TestDoctorChecksEveryLinkOfAHealthyChain(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	d.apply(t, "podman", "")
	got := d.doctor(t, upstreamName+"/team/app")
	var names []string
	for _, c := range got.Checks {
		if c.Status != "ok" {
			t.Errorf("%s: %s: %s", c.Check, c.Status, c.Text)
		}
		names = append(names, c.Check)
	}
	want := []string{"listener", "trust", "client-config", "disk", "route", "credential", "clock", "registry", "tunnel", "token-scope", "push-permission"}
	if !slices.Equal(names, want) {
		t.Errorf("got the checks %v, want %v", names, want)
	}
	stdout, _, err := d.run(t, "doctor", upstreamName+"/team/app")
	if err != nil || strings.Contains(stdout, "FAIL") || strings.Contains(stdout, parts.Alice().Password) {
		t.Errorf("%v\n%s", err, stdout)
	}
}

func TestDoctorNamesTheBrokenLinkAndTheRemedy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, d *doors)
		check  string
		words  []string
	}{
		"nothing listens": {func(_ *testing.T, d *doors) { d.Stop() }, "listener", []string{"pushproxy serve"}},
		"a client lost its set-up": {func(t *testing.T, d *doors) {
			d.apply(t, "podman", "")
			if err := os.Remove(filepath.Join(d.home, ".config/containers/certs.d", upstreamName, "pushproxy.crt")); err != nil {
				t.Fatal(err)
			}
		}, "client-config", []string{"pushproxy.crt", "pushproxy setup podman --apply"}},
		"another CA than the running one": {func(t *testing.T, d *doors) {
			other := prepareDoors(t, nil)
			if _, stderr, err := other.run(t, "ca", "renew"); err != nil {
				t.Fatal(stderr)
			}
			d.config.DataDir = other.config.DataDir
			d.written(t)
		}, "trust", []string{"data_dir"}},
		"a registry that the CA does not cover": {func(t *testing.T, d *doors) {
			d.config.Upstreams = append(d.config.Upstreams, parts.Upstream{Host: "second.test", URL: "https://127.0.0.1:1"})
			d.written(t)
		}, "trust", []string{"second.test", "pushproxy setup"}},
		"a wrong password": {func(t *testing.T, d *doors) {
			writeFile(t, d.config.Credentials.DockerConfig, dockerConfig(upstreamName, parts.User{Name: "alice", Password: canary}), 0o600)
		}, "registry", []string{"docker login " + upstreamName}},
		"no credential": {func(t *testing.T, d *doors) {
			writeFile(t, d.config.Credentials.DockerConfig, "{}", 0o600)
		}, "credential", []string{"docker login " + upstreamName}},
		"a clock that is wrong": {func(t *testing.T, d *doors) {
			rec := startRecorder(t, d.upstream.URL, d.cert.client().Transport)
			rec.setRule(func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Date", time.Now().Add(-2*time.Hour).UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			d.config.Upstreams[0].URL = rec.URL
			d.written(t)
		}, "clock", []string{"2h", "timedatectl"}},
		"a registry that is down": {func(t *testing.T, d *doors) {
			d.config.Upstreams[0].URL = "https://127.0.0.1:1"
			d.written(t)
		}, "registry", []string{upstreamName}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDoors(t, nil)
			c.change(t, d)
			got := d.doctor(t, upstreamName+"/team/app")
			status, text := got.status(c.check)
			if got.Healthy || status != "failed" {
				t.Errorf("%s is %s: %+v", c.check, status, got)
			}
			for _, word := range c.words {
				if !strings.Contains(text, word) {
					t.Errorf("%s does not say %q: %s", c.check, word, text)
				}
			}
		})
	}
}
