package authinject

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/oci"
)

func TestS4FilesThatOthersChooseAreNotRead(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(path string) error
		want   string // empty: it is read
	}{
		{"a file of ours", func(string) error { return nil }, ""},
		{"a file that others can read", func(path string) error { return os.Chmod(path, 0o644) }, ""},
		{"a file that others can write", func(path string) error { return os.Chmod(path, 0o602) }, "other users can write it"},
		{"a file that a group can write", func(path string) error { return os.Chmod(path, 0o620) }, "other users can write it"},
		{"a file of another user", func(path string) error { return os.Chown(path, 1234, 1234) }, "it belongs to user 1234"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(test.name, "another user") && os.Geteuid() != 0 {
				t.Skip("left out: only root can give files away")
			}
			config, secret := filepath.Join(t.TempDir(), "config.json"), filepath.Join(t.TempDir(), "secret")
			for path, text := range map[string]string{config: `{"auths":{"a.test":{"auth":"dTpwYXNzd29yZA=="}}}`, secret: "password"} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := test.change(path); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range []Source{&DockerConfig{Path: config}, &Reference{Key: "a.test", Username: "u", Password: "file:" + secret}} {
				c, err := s.Credential(context.Background(), oci.Repo{Host: "a.test", Name: "x"})
				switch {
				case test.want == "" && (err != nil || c.Password != "password"):
					t.Errorf("%T: %+v, %v", s, c, err)
				case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
					t.Errorf("%T: %+v, %v", s, c, err)
				}
			}
		})
	}
}

func TestAGivenCredentialIsForItsRegistryAlone(t *testing.T) {
	t.Parallel()
	g := &Given{Host: "a.test", Account: Credential{Username: "u", Password: "p"}}
	if c, err := g.Credential(t.Context(), oci.Repo{Host: "a.test", Name: "x"}); err != nil || c.Username != "u" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := g.Credential(t.Context(), oci.Repo{Host: "b.test", Name: "x"}); err == nil {
		t.Errorf("another registry gets %+v", c)
	}
}
