package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/oci"
	"pushproxy/proxy"
)

func TestTheOnePersonOfAMachine(t *testing.T) {
	t.Parallel()
	const system = "root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/var/www:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
	for name, c := range map[string]struct {
		passwd string
		alone  bool
	}{
		"one person, who it is":                    {system + "ann:x:1000:1000::/home/ann:/bin/bash\n", true},
		"one person, who it is not":                {system + "bob:x:1001:1001::/home/bob:/bin/bash\n", false},
		"two people":                               {system + "ann:x:1000:1000::/home/ann:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/zsh\n", false},
		"a person and one who may not log in":      {system + "ann:x:1000:1000::/home/ann:/bin/bash\nold:x:1001:1001::/home/old:/bin/false\n", true},
		"nobody":                                   {system, false},
		"a person and accounts from elsewhere":     {system + "ann:x:1000:1000::/home/ann:/bin/bash\n+::::::\n", false},
		"a person and one with an empty shell":     {system + "ann:x:1000:1000::/home/ann:/bin/bash\nbob:x:1001:1001::/home/bob:\n", false},
		"a line that is longer than can be read":   {system + "ann:x:1000:1000::/home/ann:/bin/bash\n" + strings.Repeat("x", 1<<17), false},
		"a person and a line that is no account's": {system + "ann:x:1000:1000::/home/ann:/bin/bash\n# old\n", true},
	} {
		if got := onlyPerson(strings.NewReader(c.passwd), 1000); got != c.alone {
			t.Errorf("%s: %v", name, got)
		}
	}
	for conf, alone := range map[string]bool{
		"": true, "passwd: files systemd\ngroup: files ldap\n": true, "passwd: files sss": false, "passwd:files ldap": false, "passwd: compat [NOTFOUND=return] nis": false, "# passwd: ldap": true,
	} {
		if got := onlyLocalAccounts(conf); got != alone {
			t.Errorf("%q: %v", conf, got)
		}
	}
}

func TestListenersBeyondLoopbackNeedALoginAndTLS(t *testing.T) {
	clean(t)
	for name, c := range map[string]struct{ yaml, want string }{
		"without either":          {"auth: none\nlisten: ['192.0.2.1:5001']", "choose another auth"},
		"without TLS":             {"auth: token\nlisten: ['192.0.2.1:5001']", "name a certificate"},
		"auto without TLS":        {"listen: ['0.0.0.0:5001']", "name a certificate"},
		"none with TLS":           {"auth: none\nlisten: ['0.0.0.0:5001']\ncertificate: {cert_file: /c, key_file: /k}", "choose another auth"},
		"half a certificate":      {"certificate: {cert_file: /c}", "belong together"},
		"accounts that are not":   {"auth: htpasswd", "htpasswd: auth: htpasswd needs the file of accounts"},
		"accounts for nothing":    {"htpasswd: /x", "htpasswd: it is the file of auth: htpasswd, and auth is auto"},
		"a relative socket":       {"listen: ['unix:x']", "absolute path"},
		"a host with a port":      {"hosts: ['a:1']", "without a port"},
		"a principal local":       {"principals: [{name: local}]", "principals[0].name"},
		"a principal twice":       {"principals: [{name: a}, {name: a}]", "principals[1].name"},
		"a principal given":       {"principals: [{name: given}]", "principals[0].name"},
		"a scope that cannot be":  {"principals: [{name: a, allow: {verbs: [all]}}]", "principals[0].allow"},
		"a secret of a principal": {"principals: [{name: a, credentials: {references: [{for: a.test, password: hunter2}]}}]", "secrets are not written here"},
	} {
		if _, err := load(t, c.yaml); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, fine := range []string{
		"auth: token\nlisten: ['0.0.0.0:5001']\ncertificate: {cert_file: /c, key_file: /k}",
		"listen: ['0.0.0.0:5001']\ncertificate: {cert_file: /c, key_file: /k}",
		"listen: ['unix:/run/x/pushproxy.sock', '127.0.0.1:5001']",
	} {
		if _, err := load(t, fine); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
}

func TestAPrincipalHasItsOwnCredentialsAlone(t *testing.T) {
	home := clean(t)
	write := func(name, user string) string {
		path := filepath.Join(home, name, "config.json")
		auth := base64.StdEncoding.EncodeToString([]byte(user + ":secret"))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(`{"auths":{"a.test":{"auth":"`+auth+`"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(".docker", "me")
	bob := write("bob", "bob")
	t.Setenv("DOCKER_AUTH_CONFIG", `{"auths":{"b.test":{"auth":"ZW52OnNlY3JldA=="}}}`)
	c, err := load(t, "principals: [{name: bob, credentials: {docker_config: "+bob+"}}, {name: poor}]")
	if err != nil {
		t.Fatal(err)
	}
	u, err := newUpstreams(c, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for principal, want := range map[string]string{
		"local": "me", "local#1234": "me", "bob": "bob", "bob#1234": "bob", "poor": "", "nobody": "", "given#12": "", "": "",
	} {
		found, err := u.chain(principal).Credential(t.Context(), oci.Repo{Host: "a.test", Name: "x"})
		if (err == nil) != (want != "") || found.Username != want {
			t.Errorf("%q has %+v, %v", principal, found, err)
		}
		found, err = u.chain(principal).Credential(t.Context(), oci.Repo{Host: "b.test", Name: "x"})
		if local := proxy.Base(principal) == "local"; (err == nil) != local {
			t.Errorf("%q has of the environment %+v, %v", principal, found, err)
		}
	}
}

func TestS4FilesOfOthersAreNotRead(t *testing.T) {
	home := clean(t)
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can give files away")
	}
	file := filepath.Join(home, "config.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Credentials: CredentialsConfig{DockerConfig: file}}
	if err := ownCredentials(c); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"docker config":              c,
		"docker config of principal": {Principals: []PrincipalConfig{{Credentials: c.Credentials}}},
		"podman auth":                {Credentials: CredentialsConfig{PodmanAuth: file}},
		"reference":                  {Credentials: CredentialsConfig{References: []ReferenceConfig{{For: "a", Password: "file:" + file}}}},
		"a directory":                {Credentials: CredentialsConfig{DockerConfig: home}},
	} {
		if err := ownCredentials(c); err == nil || !strings.Contains(err.Error(), "system service") || !strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("DOCKER_CONFIG", home)
	if err := ownCredentials(Config{}); err == nil {
		t.Error("the default docker config may be somebody's")
	}
}

func TestS17APlaceThatOthersCanReachIsRefused(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path string) error{
		"readable": func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o755)) },
		"a link": func(path string) error {
			if err := os.Mkdir(path+"2", 0o700); err != nil {
				return err
			}
			return os.Symlink(path+"2", path)
		},
		"a file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "data")
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if err := privateDir(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, fine := range map[os.FileMode]bool{0o644: true, 0o620: false, 0o602: false} {
		if err := os.Chmod(config, mode); err != nil {
			t.Fatal(err)
		}
		if err := ownConfig(config); (err == nil) != fine {
			t.Errorf("%v: %v", mode, err)
		}
	}
}

func TestLoginAndLogoutLeaveTheRestOfTheFilesAlone(t *testing.T) {
	home := clean(t)
	docker := filepath.Join(home, ".docker", "config.json")
	if err := os.MkdirAll(filepath.Dir(docker), 0o700); err != nil {
		t.Fatal(err)
	}
	const before = `{"auths":{"ghcr.io":{"auth":"dTpw"}},"credsStore":"pass","HttpHeaders":{"X":"y"},"psFormat":"a\u003cb"}`
	if err := errors.Join(os.WriteFile(docker, []byte(before), 0o600), os.Chmod(docker, 0o640)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(context.Background(), []string{"login"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	read := func(path string) (all struct {
		Auths       map[string]struct{ Auth string }
		CredHelpers map[string]string
		CredsStore  string
		HttpHeaders map[string]string
	}) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	got := read(docker)
	helper, there := got.CredHelpers["localhost:5001"]
	if got.Auths["ghcr.io"].Auth != "dTpw" || got.CredsStore != "pass" || got.HttpHeaders["X"] != "y" || !there || helper != "" {
		t.Errorf("docker's config became %+v", got)
	}
	auth, err := base64.StdEncoding.DecodeString(got.Auths["localhost:5001"].Auth)
	if user, token, ok := strings.Cut(string(auth), ":"); err != nil || !ok || user == "" || !strings.HasPrefix(token, "ppx_") {
		t.Errorf("docker's config has %q", auth)
	}
	if strings.Contains(out.String(), "ppx_") {
		t.Error("login shows the token")
	}
	podman := read(filepath.Join(home, ".config", "containers", "auth.json"))
	if podman.Auths["localhost:5001"].Auth != got.Auths["localhost:5001"].Auth {
		t.Errorf("podman's file has %+v", podman)
	}
	if info, err := os.Stat(docker); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := run(context.Background(), []string{"logout"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	if got = read(docker); len(got.Auths) != 1 || len(got.CredHelpers) != 0 || got.CredsStore != "pass" {
		t.Errorf("after logout docker's config is %+v", got)
	}
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := tokens(c).List(); err != nil || len(list) != 0 {
		t.Errorf("after logout there are %v, %v", list, err)
	}
}

func TestTokensByCommand(t *testing.T) {
	clean(t)
	do := func(args ...string) (string, string, error) {
		var out, errs bytes.Buffer
		err := run(context.Background(), args, &out, &errs)
		return out.String(), errs.String(), err
	}
	secret, note, err := do("token", "create", "ci", "--upstream", "ghcr.io", "--repository", "acme/*", "--verb", "push", "--expires", "24h")
	if err != nil || !strings.HasPrefix(secret, "ppx_") || strings.Contains(note, "ppx_") {
		t.Fatalf("%q %q %v", secret, note, err)
	}
	list, _, err := do("token", "list")
	if err != nil || !strings.Contains(list, "push in acme/* of ghcr.io") || strings.Contains(list, "ppx_") {
		t.Errorf("%q %v", list, err)
	}
	for _, bad := range [][]string{{"ci"}, {"x", "--verb", "write"}, {"x", "--principal", "A"}, {"x", "--upstream", "https://a"}} {
		if _, _, err := do(append([]string{"token", "create"}, bad...)...); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	if _, _, err := do("token", "revoke", "ci"); err != nil {
		t.Error(err)
	}
	if _, _, err := do("token", "revoke", "ci"); err == nil {
		t.Error("revoked twice")
	}
}

func TestTheWatchdogAsksALoopbackListenerAlone(t *testing.T) {
	t.Parallel()
	socket, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if got := inTheClear([]net.Listener{socket, tcp}); got != tcp.Addr().String() {
		t.Errorf("got %q", got)
	}
	for status, alive := range map[int]bool{200: true, 401: true, 500: false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		if err := ping(t.Context(), server.Client(), server.Listener.Addr().String()); (err == nil) != alive {
			t.Errorf("a %d: %v", status, err)
		}
		server.Close()
	}
	if err := ping(t.Context(), nil, inTheClear([]net.Listener{socket})); err != nil {
		t.Error(err)
	}
}
