// Package tests checks the whole program from outside: the built pushproxy between real clients and real registries.
//
// Nothing here imports a room of pushproxy; what is promised is seen on the wire, in files, in exit codes and in logs.
// A program that is not installed is a skip that names what is left out, and a failure when CI=true.
package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// suiteDir lives as long as the test process; built binaries and shared images are in it.
var suiteDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pushproxy-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	suiteDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var (
	buildRace  = sync.OnceValues(func() (string, error) { return parts.BuildPushproxy(context.Background(), suiteDir, raceEnabled) })
	buildPlain = sync.OnceValues(func() (string, error) { return parts.BuildPushproxy(context.Background(), suiteDir, false) })
	buildTools = sync.OnceValues(func() (string, error) { return parts.Tools(context.Background()) })
)

// leftOut ends the test: as a skip that says what is not checked, or as a failure where nothing may be left out.
func leftOut(t testing.TB, what string) {
	t.Helper()
	if parts.CI() {
		t.Fatalf("%s, and CI=true lets nothing be left out", what)
	}
	t.Skip("left out: " + what)
}

// tool returns the path of a program built from tests/tools.
func tool(t testing.TB, name string) string {
	t.Helper()
	dir, err := buildTools()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// system returns the path of an installed program.
func system(t *testing.T, name string) string {
	t.Helper()
	path, err := parts.Find(name)
	if err != nil {
		leftOut(t, err.Error())
	}
	return path
}

// pushproxyProgram returns the built program under test.
func pushproxyProgram(t testing.TB, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if errors.Is(err, parts.ErrNoProgram) {
		leftOut(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// cleanEnv is the environment of a child: a home of its own, and none of the variables that change which certificates,
// proxies, credentials or configuration files a program uses.
func cleanEnv(home string, more ...string) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"HOME=" + home, "TMPDIR=" + home, "XDG_RUNTIME_DIR=" + home, "LANG=C.UTF-8",
	}
	return append(env, more...)
}

// patience is how long a test waits for what has to come, however busy the machine is.
const patience = 2 * time.Minute

// poll waits until done returns true. A test that is about how soon that is says so itself.
func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !done(); <-tick.C {
		if time.Since(began) > patience {
			t.Fatalf("waited %s in vain for: %s", patience, what)
		}
	}
}

func mkdir(t testing.TB, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) string {
	t.Helper()
	mkdir(t, filepath.Dir(path))
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// lastLines shortens a log for a failure message.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = append([]string{"…"}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}
