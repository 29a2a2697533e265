package tests

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// Secrets are unique and followed through every source, step and failure; afterwards nothing that pushproxy wrote or
// answered holds one of them in any usual form.

// canaries are the secrets of one run.
type canaries struct {
	password, identity, bearer, signed, local string
}

func newCanaries(name string) canaries {
	c := func(kind string) string { return "canary/" + kind + "+" + digestOf([]byte(name + kind))[7:27] }
	return canaries{password: c("password"), identity: c("identity"), bearer: strings.ReplaceAll(c("bearer"), "/", "."), signed: c("signed")}
}

// forms are the ways in which a secret may turn up.
func forms(secret string) []string {
	sum := sha256.Sum256([]byte(secret))
	pair := "alice:" + secret
	return []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte(pair)), base64.RawURLEncoding.EncodeToString([]byte(pair)), hex.EncodeToString([]byte(secret)), hex.EncodeToString(sum[:]),
		secret[len(secret)-16:],
	}
}

// strict is an upstream's rule: it takes the canaries for Alice's login, by Basic or by a token, and misbehaves on demand.
type strict struct {
	c       canaries
	bearer  bool
	failing string // empty, or how requests with a credential end
	realm   string
}

func (s *strict) rule(w http.ResponseWriter, r *http.Request) bool {
	_, password, basic := r.BasicAuth()
	if r.URL.Path == "/token" {
		_ = r.ParseForm()
		if password != s.c.password && r.Form.Get("refresh_token") != s.c.identity {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"no login for %s %s"}]}`, r.Header.Get("Authorization"), r.Form.Encode())
			return true
		}
		fmt.Fprintf(w, `{"token":%q,"access_token":%q,"expires_in":300}`, s.c.bearer, s.c.bearer)
		return true
	}
	fine := basic && password == s.c.password && !s.bearer || s.bearer && r.Header.Get("Authorization") == "Bearer "+s.c.bearer
	if fine && s.failing == "" {
		r.SetBasicAuth(parts.Alice().Name, parts.Alice().Password)
		return false
	}
	switch {
	case !fine && s.bearer:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="registry.test"`, s.realm))
		w.WriteHeader(http.StatusUnauthorized)
	case !fine:
		w.Header().Set("WWW-Authenticate", `Basic realm="registry.test"`)
		w.WriteHeader(http.StatusUnauthorized)
	case s.failing == "redirect":
		w.Header().Set("Location", "http://127.0.0.1:9/blob?X-Amz-Signature="+url.QueryEscape(s.c.signed))
		w.WriteHeader(http.StatusTemporaryRedirect)
	case s.failing == "cut":
		panic(http.ErrAbortHandler)
	default:
		status := map[string]int{"401": 401, "403": 403, "400": 400, "502": 502}[s.failing]
		w.Header().Set("WWW-Authenticate", `Basic realm="`+r.Header.Get("Authorization")+`"`)
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"refused: %s %s"}]}`, r.Header.Get("Authorization"), password)
	}
	return true
}

func TestS16NoSecretIsWrittenOrSaid(t *testing.T) {
	t.Parallel()
	for _, source := range []struct {
		name   string
		bearer bool
		put    func(t *testing.T, r *rig, c canaries)
	}{
		{"docker config", false, func(t *testing.T, r *rig, c canaries) {
			writeFile(t, r.config.Credentials.DockerConfig, dockerConfig(upstreamName, parts.User{Name: "alice", Password: c.password}), 0o600)
		}},
		{"token server by GET", true, func(t *testing.T, r *rig, c canaries) {
			writeFile(t, r.config.Credentials.DockerConfig, dockerConfig(upstreamName, parts.User{Name: "alice", Password: c.password}), 0o600)
		}},
		{"token server by OAuth2 POST", true, func(t *testing.T, r *rig, c canaries) {
			writeFile(t, r.config.Credentials.DockerConfig, `{"auths":{"`+upstreamName+`":{"auth":"PHRva2VuPjo=","identitytoken":"`+c.identity+`"}}}`, 0o600)
		}},
		{"registry token", true, func(t *testing.T, r *rig, c canaries) {
			writeFile(t, r.config.Credentials.DockerConfig, `{"auths":{"`+upstreamName+`":{"registrytoken":"`+c.bearer+`"}}}`, 0o600)
		}},
		{"helper", false, func(t *testing.T, r *rig, c canaries) {
			script := "#!/bin/sh\ncat >/dev/null\necho " + c.password + " >&2\n" + `printf '{"ServerURL":"x","Username":"alice","Secret":"` + c.password + `"}'` + "\n"
			withHelper(t, r, "canary", script, `{"credHelpers":{"`+upstreamName+`":"canary"}}`)
		}},
		{"environment", false, func(_ *testing.T, r *rig, c canaries) {
			r.env = append(r.env, "DOCKER_AUTH_CONFIG="+dockerConfig(upstreamName, parts.User{Name: "alice", Password: c.password}))
		}},
		{"reference", false, func(t *testing.T, r *rig, c canaries) {
			file := writeFile(t, filepath.Join(r.home, "password"), c.password+"\n", 0o600)
			r.config.Credentials.References = []parts.Reference{{For: upstreamName, Username: "alice", Password: "file:" + file}}
		}},
		{"reference to the environment", false, func(_ *testing.T, r *rig, c canaries) {
			r.env = append(r.env, "CANARY_PASSWORD="+c.password)
			r.config.Credentials.References = []parts.Reference{{For: upstreamName, Username: "alice", Password: "env:CANARY_PASSWORD"}}
		}},
		{"podman's auth.json", false, func(t *testing.T, r *rig, c canaries) {
			r.config.Credentials.PodmanAuth = writeFile(t, filepath.Join(r.home, "auth.json"), dockerConfig(upstreamName, parts.User{Name: "alice", Password: c.password}), 0o600)
		}},
		{"identity token of a helper", true, func(t *testing.T, r *rig, c canaries) {
			script := "#!/bin/sh\ncat >/dev/null\n" + `printf '{"ServerURL":"x","Username":"<token>","Secret":"` + c.identity + `"}'` + "\n"
			withHelper(t, r, "canary", script, `{"credsStore":"canary"}`)
		}},
		{"passthrough", false, func(_ *testing.T, r *rig, _ canaries) { r.config.Auth = "passthrough" }},
	} {
		t.Run(source.name, func(t *testing.T) {
			t.Parallel()
			pushproxyProgram(t, buildRace)
			c := newCanaries(t.Name())
			reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
			up := &strict{c: c, bearer: source.bearer}
			rec := startRecorder(t, reg.URL, nil)
			up.realm = rec.URL
			rec.setRule(up.rule)
			traces := startCollector(t)
			r, struck := startFaulty(t, rec.URL, c.password+" "+c.identity+" "+c.bearer, secretFaults, func(r *rig) {
				r.env = append(r.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+traces.URL)
				writeFile(t, r.config.Credentials.DockerConfig, "{}", 0o600)
				r.config.Log = &parts.Log{Level: "debug"}
				source.put(t, r, c)
			})
			c.local = r.newToken(t, "canary")
			r.followSecrets(t, c, rec, up, traces, struck)
		})
	}
}

// secretFaults are where the program panics with a secret as the panic's value.
var secretFaults = []string{"handler", "flight", "push", "blob"}

// followSecrets panics, pushes, pulls and fails in every way, asks every command what it has to say, ends the program and
// then, once more, by SIGQUIT, and looks for secrets in all it showed and left.
func (r *rig) followSecrets(t *testing.T, c canaries, rec *recorder, up *strict, traces *collector, struck func() []string) {
	t.Helper()
	client := api{url: r.URL, user: parts.User{Name: "x", Password: c.local}}
	if r.config.Auth == "passthrough" {
		client.user = parts.User{Name: "alice", Password: c.password}
	}
	var said strings.Builder
	for i := 0; i < 10 && len(struck()) < len(secretFaults); i++ {
		got, _ := tryPush(t, client, fmt.Sprintf("%s/acme/fault%d", upstreamName, i))
		fmt.Fprint(&said, got.Header, string(got.body))
	}
	if got := struck(); len(got) < len(secretFaults) {
		t.Errorf("only %q panicked", got)
	}
	pushSmall(t, client, upstreamName+"/acme/app")
	for _, failing := range []string{"401", "403", "400"} {
		failed := *up
		failed.failing = failing
		rec.setRule(failed.rule)
		got, pushed := tryPush(t, client, upstreamName+"/acme/fails-"+failing)
		if pushed {
			t.Errorf("a push that ends in %s succeeds", failing)
		}
		fmt.Fprint(&said, got.Header, string(got.body))
		for _, path := range []string{"/tags/list", "/manifests/1", "/blobs/" + digestOf([]byte(failing))} {
			got := client.do(t, "GET", "/v2/"+upstreamName+"/acme/fails-"+failing+path, nil)
			fmt.Fprint(&said, got.Header, string(got.body))
		}
	}
	for _, failing := range []string{"502", "cut", "redirect"} {
		failed := *up
		failed.failing = failing
		rec.setRule(failed.rule)
		for _, path := range []string{"/blobs/" + digestOf([]byte(failing)), "/manifests/1", "/tags/list"} {
			got := client.do(t, "GET", "/v2/"+upstreamName+"/acme/fails"+path, nil)
			fmt.Fprint(&said, got.Header, string(got.body))
		}
	}
	rec.setRule(up.rule)
	for _, command := range []string{"config check", "token list", "queue ls", "status", "status --json", "doctor", "gc --json", "ca show", "setup docker", "version"} {
		out, errs, _ := r.run(t, strings.Fields(command)...)
		if said.WriteString(out + errs); out+errs == "" {
			t.Errorf("%s says nothing, so nothing was shown", command)
		}
	}
	said.WriteString(r.metrics(t))
	wrong := api{url: r.URL, user: parts.User{Name: c.password, Password: c.local + "x"}}.do(t, "GET", "/v2/?access_token="+url.QueryEscape(c.password), nil)
	fmt.Fprint(&said, wrong.Header, string(wrong.body))
	shown := r.shown(t)
	// What is still to be delivered of traces is delivered at the end.
	r.Stop()
	before := r.Output()
	if got := traces.traces(); !strings.Contains(got, "acme/app") || !strings.Contains(got, upstreamName) {
		t.Errorf("no trace of the push was delivered, so nothing was shown: %d bytes", len(got))
	}
	r.start(t)
	if err := syscall.Kill(r.Pid(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.Done():
	case <-time.After(patience):
		t.Fatal("SIGQUIT does not end it")
	}
	if !strings.Contains(r.Output(), "goroutine ") {
		t.Error("SIGQUIT left no goroutines in the log, so nothing was shown")
	}
	written := r.stored(t)
	for what, text := range map[string]string{"said": said.String(), "logged": before + r.Output(), "stored": written, "shown": shown, "traced": traces.traces()} {
		for _, secret := range []string{c.password, c.identity, c.bearer, c.signed, c.local} {
			for _, form := range forms(secret) {
				if hash := sha256.Sum256([]byte(secret)); secret == c.local && form == hex.EncodeToString(hash[:]) {
					continue // what tokens are known by: of 256 random bits it tells nothing
				}
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("%s is %s: …%q…", form, what, text[max(0, i-100):min(len(text), i+len(form)+20)])
				}
			}
		}
	}
}

// readBytes adds the file to all, without pages of zeros: most of a database's files is room for what is to come.
func readBytes(path string, all *strings.Builder) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	page, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(f, page)
		if !bytes.Equal(page[:n], zeros[:n]) {
			all.Write(page[:n])
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// stored is all that is in the data directory, whose files are its owner's alone.
func (r *rig) stored(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(r.config.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("S17: %s has the mode %v", path, info.Mode())
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		return readBytes(path, &all)
	})
	if err != nil {
		t.Fatal(err)
	}
	if all.Len() == 0 {
		t.Error("the data directory is empty, so nothing was shown")
	}
	return all.String()
}
