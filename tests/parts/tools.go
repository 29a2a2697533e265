package parts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Standalone is a program whose module is built by itself, with its own go.sum, because it cannot share a module graph.
type Standalone struct {
	Name    string // file name of the built program
	Module  string // path@version
	Package string // package directory inside the module
}

// Tools returns the directory with the programs that tests/tools/go.mod names as tools (registry, olareg, crane, regctl,
// oras). It builds them when this set of versions was never built here: minutes the first time, no time after that.
func Tools(ctx context.Context) (string, error) {
	return toolsOf(ctx, filepath.Join("tests", "tools"))
}

// Conformance returns the program of the distribution-spec conformance suite, built as Tools are. It has a module of its
// own: it shares no dependency with the tools.
func Conformance(ctx context.Context) (string, error) {
	dir, err := toolsOf(ctx, filepath.Join("tests", "tools", "conformance"))
	return filepath.Join(dir, "conformance"), err
}

// toolsOf builds the tools of the module in a folder below the root.
func toolsOf(ctx context.Context, folder string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	src := filepath.Join(root, folder)
	key, err := toolsKey(ctx, src)
	if err != nil {
		return "", err
	}
	return once(key, func(dir string) error {
		return goBuild(ctx, src, "-mod=readonly", dir+string(filepath.Separator), "tool")
	})
}

// Build returns the path of the built program, built when this version was never built here.
func (s Standalone) Build(ctx context.Context) (string, error) {
	key, err := goKey(ctx, []byte(s.Module+" "+s.Package))
	if err != nil {
		return "", err
	}
	dir, err := once(key, func(dir string) error {
		src, err := download(ctx, s.Module)
		if err != nil {
			return err
		}
		// The module cache is read-only and -mod=mod may have to complete go.sum: build in a copy.
		copied := filepath.Join(dir, "src")
		if err := os.CopyFS(copied, os.DirFS(src)); err != nil {
			return err
		}
		if err := goBuild(ctx, copied, "-mod=mod", filepath.Join(dir, s.Name), s.Package); err != nil {
			return err
		}
		return os.RemoveAll(copied)
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.Name, err)
	}
	return filepath.Join(dir, s.Name), nil
}

func toolsKey(ctx context.Context, src string) (string, error) {
	var pins []byte
	own, err := filepath.Glob(filepath.Join(src, "*.go"))
	if err != nil {
		return "", err
	}
	for _, name := range append([]string{filepath.Join(src, "go.mod"), filepath.Join(src, "go.sum")}, own...) {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		pins = append(pins, b...)
	}
	return goKey(ctx, pins)
}

func goKey(ctx context.Context, pins []byte) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env GOVERSION: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s/%s\n", bytes.TrimSpace(out), runtime.GOOS, runtime.GOARCH)
	h.Write(pins)
	return hex.EncodeToString(h.Sum(nil))[:20], nil
}

// once runs build in a fresh directory and renames it to the cache's entry for key; processes that ask at once wait for one.
func once(key string, build func(dir string) error) (string, error) {
	root, err := cacheRoot()
	if err != nil {
		return "", err
	}
	final := filepath.Join(root, key)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(final+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	dir, err := os.MkdirTemp(root, key+".part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return "", err
	}
	// MkdirTemp is 0700: the daemons may run as others.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return final, os.Rename(dir, final)
}

func goBuild(ctx context.Context, src, mod, out string, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg)
	cmd.Dir = src
	// No race detector and no cgo: these are other people's programs, wanted small and quickly.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+mod, "GOWORK=off", "PWD="+src)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s in %s: %w\n%s", pkg, src, err, tail(string(b)))
	}
	return nil
}

func download(ctx context.Context, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = os.TempDir() // outside our module: nothing is added to its go.sum
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, runErr := cmd.Output()
	var answer struct{ Dir, Error string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, runErr)
	}
	if answer.Error != "" {
		return "", fmt.Errorf("go mod download: %s", answer.Error)
	}
	return answer.Dir, nil
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return strings.TrimSpace(s)
}
