package proxy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADamagedOrForeignCAIsRefusedAndNamed(t *testing.T) {
	t.Parallel()
	for says, damage := range map[string]func(t *testing.T, dir string) string{
		"a key of another CA": func(t *testing.T, dir string) string {
			return replace(t, filepath.Join(dir, "1", keyFile), filepath.Join(newCA(t, "x.test").dir, "1", keyFile), 0o400)
		},
		"an intermediate of another CA": func(t *testing.T, dir string) string {
			return replace(t, filepath.Join(dir, "1", chainFile), filepath.Join(newCA(t, "x.test").dir, "1", chainFile), 0o444)
		},
		"an intermediate without bounds": func(t *testing.T, dir string) string {
			return replace(t, filepath.Join(dir, "1", chainFile), filepath.Join(dir, "1", rootFile), 0o444)
		},
		"a bundle with a root of another CA": func(t *testing.T, dir string) string {
			return replace(t, filepath.Join(dir, bundleFile), newCA(t, "x.test").Bundle(), 0o644)
		},
		"a bundle that is no certificate": func(t *testing.T, dir string) string {
			file := filepath.Join(dir, bundleFile)
			if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			return file
		},
		"a key that others can read": func(t *testing.T, dir string) string {
			file := filepath.Join(dir, "1", keyFile)
			if err := os.Chmod(file, 0o440); err != nil {
				t.Fatal(err)
			}
			return file
		},
		"a key that is missing": func(t *testing.T, dir string) string {
			file := filepath.Join(dir, "1", keyFile)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			return file
		},
		"a root that is no certificate": func(t *testing.T, dir string) string {
			file := filepath.Join(dir, "1", rootFile)
			if err := errors.Join(os.Remove(file), os.WriteFile(file, []byte("x"), 0o444)); err != nil {
				t.Fatal(err)
			}
			return file
		},
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			dir := newCA(t, "ghcr.io").dir
			file := damage(t, dir)
			_, err := OpenCA(dir)
			if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "pushproxy ca renew") {
				t.Errorf("got %v", err)
			}
			ca := &CA{dir: dir}
			if err := ca.Renew("ghcr.io"); err != nil {
				t.Errorf("it cannot be renewed: %v", err)
			}
		})
	}
}

func replace(t *testing.T, file, by string, mode os.FileMode) string {
	t.Helper()
	text, err := os.ReadFile(by)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file, text, mode)); err != nil {
		t.Fatal(err)
	}
	return file
}
