package authinject

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pushproxy/oci"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// writeConfig writes a docker config and returns the Source that reads it.
func writeConfig(t *testing.T, content string) *DockerConfig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return &DockerConfig{Path: path}
}

func repoOf(t *testing.T, s string) oci.Repo {
	t.Helper()
	host, name, _ := strings.Cut(s, "/")
	return oci.Repo{Host: host, Name: name}
}

func TestAccountsAreReadAsClientsWriteThem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ config, repo, want string }{
		"auth":                            {`{"auths":{"ghcr.io":{"auth":"` + b64("bob:pw") + `"}}}`, "ghcr.io/a/b", "bob pw"},
		"auth without padding":            {`{"auths":{"ghcr.io":{"auth":"` + strings.TrimRight(b64("bob:p"), "=") + `"}}}`, "ghcr.io/a/b", "bob p"},
		"auth with NULs at the end":       {`{"auths":{"ghcr.io":{"auth":"` + b64("bob:pw\x00\x00") + `"}}}`, "ghcr.io/a/b", "bob pw"},
		"a password with colons":          {`{"auths":{"ghcr.io":{"auth":"` + b64("bob:p:w:") + `"}}}`, "ghcr.io/a/b", "bob p:w:"},
		"username and password":           {`{"auths":{"ghcr.io":{"username":"bob","password":"pw"}}}`, "ghcr.io/a/b", "bob pw"},
		"auth beside them":                {`{"auths":{"ghcr.io":{"username":"x","password":"y","auth":"` + b64("bob:pw") + `"}}}`, "ghcr.io/a/b", "bob pw"},
		"an identity token":               {`{"auths":{"acr.io":{"auth":"` + b64("0000:") + `","identitytoken":"id"}}}`, "acr.io/a", "0000  id"},
		"a registry token":                {`{"auths":{"ghcr.io":{"registrytoken":"rt"}}}`, "ghcr.io/a", "   rt"},
		"Docker Hub":                      {`{"auths":{"https://index.docker.io/v1/":{"auth":"` + b64("bob:pw") + `"}}}`, "docker.io/library/a", "bob pw"},
		"another host's is never used":    {`{"auths":{"ghcr.io":{"auth":"` + b64("bob:pw") + `"}}}`, "ghcr.io.evil.example/a", ""},
		"nor another port's":              {`{"auths":{"localhost:5000":{"auth":"` + b64("bob:pw") + `"}}}`, "localhost:5001/a", ""},
		"nor one without a port":          {`{"auths":{"localhost":{"auth":"` + b64("bob:pw") + `"}}}`, "localhost:5000/a", ""},
		"nor a subdomain's":               {`{"auths":{"ghcr.io":{"auth":"` + b64("bob:pw") + `"}}}`, "a.ghcr.io/a", ""},
		"an empty entry":                  {`{"auths":{"ghcr.io":{}}}`, "ghcr.io/a", ""},
		"an empty file":                   {``, "ghcr.io/a", ""},
		"an empty object":                 {`{}`, "ghcr.io/a", ""},
		"fields of other programs":        {`{"psFormat":"x","plugins":{"a":{"b":"c"}},"auths":null}`, "ghcr.io/a", ""},
		"docker's spelling before others": {`{"auths":{"https://ghcr.io":{"auth":"` + b64("old:pw") + `"},"ghcr.io":{"auth":"` + b64("new:pw") + `"}}}`, "ghcr.io/a", "new pw"},
		"the other spelling when it is alone with content": {
			`{"auths":{"https://ghcr.io":{"auth":"` + b64("old:pw") + `"},"ghcr.io":{}}}`, "ghcr.io/a", "old pw"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := writeConfig(t, c.config)
			got, err := d.Credential(t.Context(), repoOf(t, c.repo))
			if c.want == "" {
				if !errors.Is(err, ErrNone) {
					t.Errorf("got %q and %v, want ErrNone", got.Username, err)
				}
				return
			}
			parts := append(strings.Split(c.want, " "), "", "")
			want := Credential{Username: parts[0], Password: Secret(parts[1]), Identity: Secret(parts[2]), Bearer: Secret(parts[3])}
			want.Source = "docker config " + d.Path
			if err != nil || got != want {
				t.Errorf("got %q %q %q %q from %q, error %v", got.Username, got.Password.Reveal(), got.Identity.Reveal(), got.Bearer.Reveal(), got.Source, err)
			}
		})
	}
}

func TestTheLongestKeyThatLeadsTheNameWins(t *testing.T) {
	t.Parallel()
	d := writeConfig(t, `{"auths":{
		"ghcr.io":{"auth":"`+b64("host:pw")+`"},
		"ghcr.io/acme":{"auth":"`+b64("acme:pw")+`"},
		"https://ghcr.io/acme/team/":{"auth":"`+b64("team:pw")+`"},
		"ghcr.io/acme/app/x":{},
		"quay.io/acme":{"auth":"`+b64("quay:pw")+`"}}}`)
	for repo, want := range map[string]string{
		"ghcr.io/acme/team/app": "team", "ghcr.io/acme/team": "team", "ghcr.io/acme/app": "acme", "ghcr.io/acme": "acme",
		"ghcr.io/acmecorp/app": "host", "ghcr.io/acme-x": "host", "ghcr.io/other": "host", "ghcr.io/acme/teamx": "acme",
		"ghcr.io/acme/app/x/y": "acme", "ghcr.io": "host", "quay.io/acme/app": "quay", "quay.io/other": "", "quay.io": "",
	} {
		got, err := d.Credential(t.Context(), repoOf(t, repo))
		if got.Username != want || (want == "") != errors.Is(err, ErrNone) {
			t.Errorf("%s: got %q and %v, want %q", repo, got.Username, err, want)
		}
	}
	hosts, err := d.Hosts(t.Context())
	if err != nil || !slices.Equal(hosts, []string{"ghcr.io", "quay.io"}) {
		t.Errorf("got hosts %q and %v", hosts, err)
	}
}

func TestAConfigThatCannotBeUsedIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"broken JSON":              `{"auths":{"ghcr.io":{"auth":"` + canary,
		"no JSON":                  canary,
		"a number for a secret":    `{"auths":{"ghcr.io":{"auth":4444444}}}`,
		"a list":                   `["` + canary + `"]`,
		"not base64":               `{"auths":{"ghcr.io":{"auth":"` + canary + `!"}}}`,
		"base64 without a colon":   `{"auths":{"ghcr.io":{"auth":"` + b64(canary) + `"}}}`,
		"larger than any config":   `{"a":"` + strings.Repeat(" ", maxConfig) + `"}`,
		"a text for credHelpers":   `{"credHelpers":"` + canary + `"}`,
		"a helper of strange name": `{"credHelpers":{"ghcr.io":"../../` + canary + `"}}`,
	} {
		d := writeConfig(t, content)
		_, err := d.Credential(t.Context(), oci.Repo{Host: "ghcr.io", Name: "a/b"})
		if !errors.Is(err, oci.ErrDenied) {
			t.Errorf("%s: got %v, want an error to be shown", name, err)
			continue
		}
		shown := err.Error()
		if name == "a helper of strange name" {
			shown = strings.ReplaceAll(shown, "../../"+canary, "")
		} else if !strings.Contains(shown, d.Path) {
			t.Errorf("%s: the error does not name the file: %s", name, shown)
		}
		if leaks(shown) || strings.Contains(shown, "invalid character") || strings.Contains(shown, "4444444") {
			t.Errorf("%s: the error shows the content: %s", name, shown)
		}
	}
}

func TestFilesThatCannotBeReadAreErrorsAndMissingOnesAreNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	repo := oci.Repo{Host: "ghcr.io", Name: "a/b"}
	for _, path := range []string{"", dir, filepath.Join(dir, "none"), filepath.Join(dir, "none", "config.json")} {
		d := &DockerConfig{Path: path}
		if _, err := d.Credential(t.Context(), repo); !errors.Is(err, ErrNone) {
			t.Errorf("%q: got %v, want ErrNone", path, err)
		}
		if hosts, err := d.Hosts(t.Context()); err != nil || len(hosts) != 0 {
			t.Errorf("%q: got hosts %q and %v", path, hosts, err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "config.json", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, os.DevNull} {
		d := &DockerConfig{Path: path, Kind: "podman auth file"}
		_, err := d.Credential(t.Context(), repo)
		if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "podman auth file") || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: got %v, want an error that names the file", path, err)
		}
	}
}

// A pipe would be waited for, and with it every push.
func TestS17APipeIsNoConfigAndNoSecret(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "config.json")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := (&DockerConfig{Path: pipe}).Credential(context.Background(), oci.Repo{Host: "ghcr.io", Name: "a"})
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it is waited for")
	}
}

func TestADirectoryStandsForItsConfig(t *testing.T) {
	t.Parallel()
	d := writeConfig(t, `{"auths":{"ghcr.io":{"auth":"`+b64("bob:pw")+`"}}}`)
	d.Path = filepath.Dir(d.Path)
	c, err := d.Credential(t.Context(), oci.Repo{Host: "ghcr.io"})
	if err != nil || c.Source != "docker config "+filepath.Join(d.Path, "config.json") {
		t.Errorf("got %q and %v", c.Source, err)
	}
}

func TestAnEditedConfigCountsAtOnce(t *testing.T) {
	t.Parallel()
	user := func(name string) string { return `{"auths":{"ghcr.io":{"auth":"` + b64(name+":pw") + `"}}}` }
	d := writeConfig(t, user("ann"))
	old := time.Now().Add(-time.Hour)
	check := func(step, want string) {
		t.Helper()
		got, err := d.Credential(t.Context(), oci.Repo{Host: "ghcr.io"})
		if got.Username != want || (want == "") == (err == nil) {
			t.Errorf("%s: got %q and %v, want %q", step, got.Username, err, want)
		}
	}
	write := func(content string, mtime time.Time) {
		t.Helper()
		if err := os.WriteFile(d.Path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(d.Path, mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	check("at first", "ann")
	now := time.Now()
	write(user("eve"), now)
	check("written now", "eve")
	write(user("bob"), now)
	check("the same size within one tick of the clock", "bob")
	write(user("cat"), old)
	check("with another time", "cat")
	write(user("kit"), old)
	check("with nothing that shows it, after a while", "cat")
	write(user("dan"), old.Add(time.Minute))
	check("with another time again", "dan")
	write(user("charlie"), old)
	check("with another size", "charlie")
	other := d.Path + ".new"
	if err := os.WriteFile(other, []byte(user("charles")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chtimes(other, old, old), os.Rename(other, d.Path)); err != nil {
		t.Fatal(err)
	}
	check("replaced by another file, as docker login does", "charles")
	write("{", old)
	check("while it is broken", "")
	write(user("dora"), old)
	check("when it is whole again", "dora")
	if err := os.Remove(d.Path); err != nil {
		t.Fatal(err)
	}
	check("when it is gone", "")
}

func TestPodmanFilesAreLookedForWherePodmanDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  map[string]string
		home string
		want []string
	}{
		"by default":            {nil, "/home/u", []string{"/home/u/.config/containers/auth.json"}},
		"in a session":          {map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, "/home/u", []string{"/run/user/7/containers/auth.json", "/home/u/.config/containers/auth.json"}},
		"with another home":     {map[string]string{"XDG_CONFIG_HOME": "/c"}, "/home/u", []string{"/c/containers/auth.json"}},
		"told where":            {map[string]string{"REGISTRY_AUTH_FILE": "/a.json", "XDG_RUNTIME_DIR": "/r"}, "/home/u", []string{"/a.json"}},
		"without a home at all": {nil, "", nil},
	} {
		if got := PodmanFiles(func(k string) string { return c.env[k] }, c.home); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func FuzzParseAuthConfig(f *testing.F) {
	for _, s := range []string{
		`{"auths":{"ghcr.io":{"auth":"Ym9iOnB3"},"ghcr.io/acme":{}},"credsStore":"pass","credHelpers":{"x.test":"ecr-login"}}`,
		`{"auths":{"https://index.docker.io/v1/":{"username":"a","password":"b","identitytoken":"c","registrytoken":"d"}}}`,
		`{"auths":null}`, `[]`, `{`, `{"auths":{"a":1}}`, `{"auths":{"":{}}}`,
	} {
		f.Add([]byte(s), "ghcr.io", "acme/app")
	}
	f.Fuzz(func(t *testing.T, data []byte, host, name string) {
		c, err := parseAuthConfig(data)
		if err != nil {
			return
		}
		levels := c.levels(oci.Repo{Host: host, Name: name})
		if levels[len(levels)-1].path != "" {
			t.Error("the registry as a whole is not the last level")
		}
		for i, l := range levels {
			if i > 0 && len(l.path) >= len(levels[i-1].path) {
				t.Errorf("%q follows %q", l.path, levels[i-1].path)
			}
			for _, k := range slices.Concat(l.auths, l.helpers) {
				if k.host != host || !prefixOf(k.path, name) {
					t.Errorf("the key %q counts for %s/%s", k.key, host, name)
				}
			}
		}
	})
}

func TestS32AConfigHasAnEnd(t *testing.T) {
	t.Parallel()
	text := `{"auths":{"ghcr.io":{"auth":"` + b64("bob:pw") + `"}}}`
	for _, extra := range []int{0, 1} {
		d := writeConfig(t, text+strings.Repeat(" ", maxConfig-len(text)+extra))
		c, err := d.Credential(t.Context(), oci.Repo{Host: "ghcr.io"})
		if extra == 0 && (err != nil || c.Username != "bob") || extra == 1 && (err == nil || !strings.Contains(err.Error(), "is larger than")) {
			t.Errorf("%d bytes beyond the end: %q, %v", extra, c.Username, err)
		}
	}
}
