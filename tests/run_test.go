package tests

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// command is one run of a client.
type command struct {
	env  []string
	dir  string
	most time.Duration // default two minutes, or PUSHPROXY_TESTS_PATIENCE seconds
}

// run runs a program that must succeed and returns its standard output.
func (c command) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	stdout, stderr, err := c.try(t, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", filepath.Base(program), strings.Join(args, " "), err, lastLines(stdout, 20), lastLines(stderr, 30))
	}
	return stdout
}

// try runs a program that may fail.
func (c command) try(t *testing.T, program string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	most := c.most
	if most == 0 {
		most = time.Duration(fromEnvironment(t, "PUSHPROXY_TESTS_PATIENCE", 120)) * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = c.env, c.dir
	cmd.WaitDelay = 2 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// killed runs a program and kills it after a while; it tells whether the program had ended before.
func (c command) killed(t *testing.T, after time.Duration, program string, args ...string) (ended bool) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = c.env, c.dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	return err == nil
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func contextFor(t *testing.T, most time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), most)
}
