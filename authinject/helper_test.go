//go:build unix

package authinject

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pushproxy/oci"
)

// helperDir holds helper programs written for one test.
type helperDir string

// newHelpers returns a directory for helpers and the Helpers that run them,
// with a clock that stands still until it is moved.
func newHelpers(t *testing.T) (helperDir, *Helpers, *time.Duration) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	start, moved := time.Now(), new(time.Duration)
	return helperDir(dir), &Helpers{
		Path: dir + ":/usr/bin:/bin", Timeout: 20 * time.Second,
		Now: func() time.Time { return start.Add(*moved) },
	}, moved
}

// write makes docker-credential-<name> a shell script that also counts its runs.
func (d helperDir) write(t *testing.T, name, script string) {
	t.Helper()
	// A fork elsewhere in this process may hold the script open for writing
	// for a moment, in which it cannot be executed (golang/go#22315).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	content := "#!/bin/sh\necho $1 >> '" + string(d) + "/runs'\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(string(d), "docker-credential-"+name), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// runs returns how often helpers ran.
func (d helperDir) runs(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(string(d), "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

const answerBob = `echo '{"ServerURL":"https://evil.example","Username":"bob","Secret":"` + canary + `"}'`

func TestS15HelpersThatFailAreErrorsThatShowNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ script, want string }{
		"prints the secret and fails":        {"echo " + canary + "; echo " + canary + " >&2; exit 1", "exit status 1"},
		"prints its answer and fails":        {answerBob + "; exit 3", "exit status 3"},
		"hangs":                              {"sleep 1000", "no answer within"},
		"hangs and catches signals":          {"trap '' TERM INT HUP; while :; do sleep 1; done", "no answer within"},
		"leaves a child that hangs, and too": {"sleep 1000 & sleep 1000", "no answer within"},
		"prints a gigabyte":                  {"echo " + canary + "; exec head -c 1073741824 /dev/zero", "more than 64 KiB"},
		"prints without end":                 {"while :; do echo " + canary + canary + canary + canary + "; done", "more than 64 KiB"},
		"prints rubbish":                     {"echo " + canary, "not the JSON"},
		"prints nothing":                     {"exit 0", "not the JSON"},
		"prints half":                        {`echo '{"Username":"bob","Secret":"` + canary + `'`, "not the JSON"},
		"kills itself":                       {"echo " + canary + "; kill -9 $$", "killed by a signal"},
		"misses the server address":          {"echo no credentials server URL; exit 1", "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, h, _ := newHelpers(t)
			if strings.Contains(name, "hangs") {
				h.Timeout = 300 * time.Millisecond
			}
			dir.write(t, "x", c.script)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			_, err := h.get(t.Context(), "x", []string{"ghcr.io"})
			runtime.ReadMemStats(&after)
			if !errors.Is(err, oci.ErrDenied) || errors.Is(err, ErrNone) {
				t.Fatalf("got %v, want an error to be shown", err)
			}
			for _, part := range []string{c.want, "docker-credential-x", "ghcr.io", "by hand"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
			if leaks(fmt.Sprintf("%v %+v %#v", err, err, err)) {
				t.Errorf("the error shows what the helper printed: %v", err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 200<<20 {
				t.Errorf("%d MiB were allocated for a gigabyte of output", grown>>20)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestS15AHelperWhoseChildHoldsItsOutputStillAnswers(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	dir.write(t, "x", answerBob+"; sleep 1000 & echo $! > '"+string(dir)+"/child'")
	c, err := h.get(t.Context(), "x", []string{"ghcr.io"})
	if err != nil || c.Password != canary {
		t.Fatalf("got %v and %v, want the answer", c, err)
	}
	data, err := os.ReadFile(filepath.Join(string(dir), "child"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	// It has been killed, and may take a moment to die.
	deadline := time.After(10 * time.Second)
	for alive(pid) {
		select {
		case <-deadline:
			t.Fatalf("the child %d goes on", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// alive reports whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux" && syscall.Kill(pid, 0) == nil
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func TestS15WhatAHelperGets(t *testing.T) {
	t.Setenv("PUSHPROXY_TEST_SECRET", canary)
	t.Setenv("PUSHPROXY_TEST_WANTED", "yes")
	dir, h, _ := newHelpers(t)
	h.Env = []string{"PUSHPROXY_TEST_WANTED"}
	dir.write(t, "x", `cat > '`+string(dir)+`/in'; env > '`+string(dir)+`/env'; echo "$@" > '`+string(dir)+`/args'; `+answerBob)
	if _, err := h.get(t.Context(), "x", []string{"ghcr.io"}); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(string(dir), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if in := read("in"); in != "ghcr.io" {
		t.Errorf("got input %q, want the registry without a line break", in)
	}
	if args := read("args"); args != "get\n" {
		t.Errorf("got arguments %q", args)
	}
	if env := read("env"); strings.Contains(env, canary) || !strings.Contains(env, "PUSHPROXY_TEST_WANTED=yes") {
		t.Errorf("got environment %q", env)
	}
}

func TestS15HelpersAreFoundInTrustworthyPlacesOnly(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	dir.write(t, "good", answerBob)
	dir.write(t, "loose", answerBob)
	open := filepath.Join(filepath.Dir(string(dir)), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	helperDir(open).write(t, "planted", answerBob)
	if err := errors.Join(os.Chmod(open, 0o777), os.Chmod(filepath.Join(string(dir), "docker-credential-loose"), 0o777)); err != nil {
		t.Fatal(err)
	}
	h.Path = ".:" + open + ":" + h.Path
	for name, want := range map[string]string{
		"good": "", "missing": "not installed", "planted": "others may write", "loose": "others may write",
		"": "was not run", "../../x": "was not run", "a;id": "was not run", "a b": "was not run", "A": "was not run", "-x": "was not run",
		".x": "was not run", "x/y": "was not run", "x\ny": "was not run", "é": "was not run", strings.Repeat("a", 65): "was not run",
	} {
		_, err := h.get(t.Context(), name, []string{"ghcr.io"})
		if want == "" && err == nil {
			continue
		}
		if !errors.Is(err, oci.ErrDenied) || want == "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %q", name, err, want)
		}
	}
	if dir.runs(t) != 1 || helperDir(open).runs(t) != 0 {
		t.Error("a helper ran that must not")
	}
	if _, err := h.get(t.Context(), "good", []string{strings.Repeat("a", maxHelperInput+1)}); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("a name of more than 1 KiB: got %v, want an error", err)
	}
}

// What a name that a config file chose could lead to is there, can be run, and is not.
func TestS15NoNameOfAHelperLeadsOutOfItsDirectory(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	above := helperDir(filepath.Dir(string(dir)))
	above.write(t, "planted", answerBob)
	dir.write(t, "sub", answerBob)
	for _, d := range []string{"docker-credential-x", "docker-credential-"} {
		if err := os.Mkdir(filepath.Join(string(dir), d), 0o755); err != nil {
			t.Fatal(err)
		}
		helperDir(filepath.Join(string(dir), d)).write(t, "inside", answerBob)
	}
	for _, name := range []string{
		"x/../../docker-credential-planted", "x/docker-credential-inside", "/docker-credential-inside", "x/../docker-credential-sub", "/../../docker-credential-planted",
	} {
		if _, err := h.get(t.Context(), name, []string{"ghcr.io"}); !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "was not run") {
			t.Errorf("%q: got %v, want that it was not run", name, err)
		}
	}
	if n := dir.runs(t) + above.runs(t) + helperDir(filepath.Join(string(dir), "docker-credential-x")).runs(t); n > 0 {
		t.Errorf("%d programs ran", n)
	}
}

func TestWhatIsNoProgramIsPassedOverForOneThatIs(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	dir.write(t, "x", answerBob)
	dir.write(t, "y", answerBob)
	earlier := filepath.Join(filepath.Dir(string(dir)), "earlier")
	file := filepath.Join(filepath.Dir(string(dir)), "file")
	if err := errors.Join(os.MkdirAll(filepath.Join(earlier, "docker-credential-x"), 0o755), os.WriteFile(file, nil, 0o755),
		os.WriteFile(filepath.Join(earlier, "docker-credential-y"), []byte("no program"), 0o644)); err != nil {
		t.Fatal(err)
	}
	h.Path = filepath.Join(earlier, "nowhere") + ":" + file + ":" + earlier + ":" + earlier + ":" + h.Path
	for _, name := range []string{"x", "y"} {
		if c, err := h.get(t.Context(), name, []string{"ghcr.io"}); err != nil || c.Username != "bob" {
			t.Errorf("%s: got %v, want bob", name, err)
		}
	}
}

// Not parallel: it is in another directory meanwhile.
func TestS15AHelperInTheWorkingDirectoryIsNotRun(t *testing.T) {
	dir, h, _ := newHelpers(t)
	dir.write(t, "x", answerBob)
	t.Chdir(string(dir))
	for _, path := range []string{".", "", "./", "../bin"} {
		h.Path = path + ":/usr/bin:/bin"
		_, err := h.get(t.Context(), "x", []string{"registry" + strconv.Itoa(len(path))})
		if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "was not run") && !strings.Contains(err.Error(), "not installed") {
			t.Errorf("PATH %q: got %v", h.Path, err)
		}
	}
	if n := dir.runs(t); n > 0 {
		t.Errorf("it ran %d times", n)
	}
}

func TestHelpersWorkAsTheyComeAndForAsLongAsTheyAreTold(t *testing.T) {
	t.Parallel()
	dir, h, moved := newHelpers(t)
	dir.write(t, "x", answerBob)
	h.Timeout, h.Life = 0, 100*time.Second
	for at, runs := range []int{0: 1, 79: 1, 80: 2, 159: 2} {
		if runs == 0 {
			continue
		}
		*moved = time.Duration(at) * time.Second
		if _, err := h.get(t.Context(), "x", []string{"ghcr.io"}); err != nil || dir.runs(t) != runs {
			t.Errorf("after %d s: %v, it ran %d times, want %d", at, err, dir.runs(t), runs)
		}
	}
}
