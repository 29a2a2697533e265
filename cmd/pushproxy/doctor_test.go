package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/proxy"
	"pushproxy/upstream/upstreamtest"
)

func TestDoctorSaysWhereTheChainBreaksAndWhatToDo(t *testing.T) {
	for _, c := range []struct {
		says, login, name string
		want              []string
		healthy           bool
	}{
		{"all is well", "alice:right", "registry.test/acme/app", []string{"ok   route", "ok   credential       alice from docker config", "ok   registry", "ok   push-permission"}, true},
		{"a registry alone is not asked about pushes", "alice:right", "registry.test", []string{"ok   registry"}, true},
		{"an alias will do", "alice:right", "corp/acme/app", []string{"ok   push-permission"}, true},
		{"the password is wrong", "alice:wrong", "registry.test/acme/app", []string{"FAIL registry", "docker login registry.test"}, false},
		{"nobody is logged in, and need not be", "open", "registry.test/acme/app", []string{"ok   credential       none found, and the registry asks for none", "ok   registry", "ok   push-permission"}, true},
		{"the registry is away", "alice:right", "away.test", []string{"FAIL registry         away.test could not be reached", "and try again\n"}, false},
		{"nobody is logged in", "", "registry.test/acme/app", []string{"FAIL credential", "none found in", "docker login registry.test"}, false},
		{"the registry is not one of ours", "alice:right", "other.test/acme/app", []string{"FAIL route", "docker login other.test", "registry.test"}, false},
	} {
		t.Run(c.says, func(t *testing.T) {
			home := clean(t)
			registry := &upstreamtest.Registry{Auth: &upstreamtest.Auth{Username: "alice", Password: "right", Bearer: true}}
			if c.login == "open" {
				registry.Auth = nil
			}
			server := httptest.NewServer(registry)
			defer server.Close()
			if c.login != "" && c.login != "open" {
				if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
					t.Fatal(err)
				}
				text := fmt.Sprintf(`{"auths":{"registry.test":{"auth":%[1]q},"away.test":{"auth":%[1]q}}}`, base64.StdEncoding.EncodeToString([]byte(c.login)))
				if err := os.WriteFile(filepath.Join(home, ".docker/config.json"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PUSHPROXY_UPSTREAMS", fmt.Sprintf(`[{"host":"registry.test","url":%q,"aliases":["corp"]},{"host":"away.test","url":"http://127.0.0.1:1"}]`, server.URL))
			door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server", proxy.ServerName) }))
			defer door.Close()
			var out bytes.Buffer
			args := []string{"doctor", c.name, "--listen", door.Listener.Addr().String(), "--tls=off", "--forward-proxy-listen="}
			err := run(context.Background(), args, &out, &out)
			if (err == nil) != c.healthy {
				t.Errorf("got %v and:\n%s", err, &out)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing from:\n%s", want, &out)
				}
			}
			if strings.Contains(out.String(), "right") || strings.Contains(out.String(), "wrong") {
				t.Errorf("the output shows a password:\n%s", &out)
			}
		})
	}
}

func TestDoctorWithoutAnyRegistrySaysSo(t *testing.T) {
	clean(t)
	var out bytes.Buffer
	err := run(context.Background(), []string{"doctor"}, &out, &out)
	if err == nil || !strings.Contains(err.Error(), "docker login") {
		t.Errorf("got %v", err)
	}
}
