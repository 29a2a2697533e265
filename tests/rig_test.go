package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// rig is a pushproxy with a home, a data directory and ports of its own.
type rig struct {
	*parts.Pushproxy
	program, home, file string
	config              parts.Config
	env                 []string
}

// prepare writes the configuration of a rig without starting it. change may alter configuration and environment; by default
// registry.test is at upstreamURL, Alice is logged in to it in the docker config, and the build has the tests' race setting.
func prepare(t testing.TB, upstreamURL string, change func(*rig)) *rig {
	t.Helper()
	home := t.TempDir()
	port := freePort(t)
	r := &rig{
		program: pushproxyProgram(t, buildRace), home: home, file: filepath.Join(home, "pushproxy.yaml"),
		env: cleanEnv(home, "GORACE=halt_on_error=1 exitcode=66"),
	}
	r.config = parts.Config{
		Listen:    []string{fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("[::1]:%d", port)},
		DataDir:   filepath.Join(home, "data"),
		Upstreams: []parts.Upstream{{Host: upstreamName, URL: upstreamURL}},
		Credentials: &parts.Credentials{
			DockerConfig: writeFile(t, filepath.Join(home, ".docker", "config.json"), dockerConfig(upstreamName, parts.Alice()), 0o600),
			PodmanAuth:   filepath.Join(home, "no-podman-auth.json"),
		},
	}
	r.Pushproxy = &parts.Pushproxy{Port: port}
	if change != nil {
		change(r)
	}
	if err := r.config.Write(r.file); err != nil {
		t.Fatal(err)
	}
	return r
}

// startRig prepares a rig and runs it until the test ends.
func startRig(t testing.TB, upstreamURL string, change func(*rig)) *rig {
	t.Helper()
	r := prepare(t, upstreamURL, change)
	r.start(t)
	return r
}

// start runs the prepared program; after a kill it starts it again on the same port with the same data.
func (r *rig) start(t testing.TB) {
	t.Helper()
	p, err := parts.StartPushproxy(t.Context(), r.program, r.file, r.Port, r.env)
	if err != nil {
		t.Fatal(err)
	}
	r.Pushproxy = p
	t.Cleanup(func() {
		p.Stop()
		log := p.Output()
		if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") || strings.Contains(log, "fatal error:") {
			t.Errorf("pushproxy crashed or raced:\n%s", lastLines(log, 80))
		} else if t.Failed() {
			t.Logf("pushproxy printed:\n%s", lastLines(log, 40))
		}
	})
}

// api speaks to pushproxy as an anonymous client.
func (r *rig) api() api { return api{url: r.URL} }

// ref names an image the way clients push it.
func (r *rig) ref(repo, tag string) string {
	return fmt.Sprintf("localhost:%d/%s/%s:%s", r.Port, upstreamName, repo, tag)
}

// run runs one of pushproxy's commands with the rig's configuration, which may fail.
func (r *rig) run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return command{env: r.env, dir: r.home}.try(t, r.program, append(args, "--config", r.file)...)
}

// pushLines returns the log lines that report a push.
func (r *rig) pushLines() []string {
	var lines []string
	for line := range strings.Lines(r.Output()) {
		if strings.Contains(line, "msg=push ") || strings.Contains(line, `"msg":"push"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// upstreamAPI speaks to an upstream directly, as Alice.
func upstreamAPI(reg *parts.Registry) api { return api{url: reg.URL, user: parts.Alice()} }

// dockerConfig is a docker or podman credential file that holds one account for one host (or host/path).
func dockerConfig(key string, u parts.User) string {
	return dockerConfigOf(map[string]parts.User{key: u})
}

func dockerConfigOf(accounts map[string]parts.User) string {
	auths := map[string]map[string]string{}
	for key, u := range accounts {
		auths[key] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(u.Name + ":" + u.Password))}
	}
	b, _ := json.Marshal(map[string]any{"auths": auths}) // strings only: cannot fail
	return string(b)
}

func freePort(t testing.TB) int {
	t.Helper()
	port, err := parts.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
