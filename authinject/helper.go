package authinject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"

	"pushproxy/oci"
)

const (
	// maxHelperInput and maxHelperOutput bound what a helper is given and what
	// is read from it, in bytes.
	maxHelperInput  = 1 << 10
	maxHelperOutput = 64 << 10
	// helperTimeout is how long a helper may take where Helpers says nothing.
	helperTimeout = 10 * time.Second
	// helperGrace is how long a helper's output is waited for after the helper
	// itself has ended: a child may hold it open.
	helperGrace = 500 * time.Millisecond
	// maxHelperRuns is how many helpers run at a time.
	maxHelperRuns = 4
)

// run asks a helper for the credential under key. ErrNone says that it has
// none; any other error is an *oci.Error without anything the helper printed.
func (h *Helpers) run(ctx context.Context, name, key string) (Credential, error) {
	p, err := h.program(ctx, name)
	if err == nil {
		var found *credentials.Credentials
		// The library's own errors repeat what the helper printed, which may
		// be the secret: only the kind of error is taken from it.
		found, err = client.Get(func(args ...string) client.Program { p.args = args; return p }, key)
		switch {
		case credentials.IsErrCredentialsNotFound(err):
			return Credential{}, ErrNone
		case err == nil && found.Secret == "":
			return Credential{}, ErrNone
		case err == nil:
			return helperCredential(name, found.Username, Secret(found.Secret)), nil
		case p.err != nil:
			err = p.err
		default:
			err = errors.New("printed something that is not the JSON of a credential helper")
		}
	}
	return Credential{}, helperError(name, key, err)
}

// runList asks a helper which keys it holds. The error is for nobody: that a
// helper cannot list is no failure.
func (h *Helpers) runList(ctx context.Context, name string) ([]string, error) {
	p, err := h.program(ctx, name)
	if err != nil {
		return nil, err
	}
	found, err := client.List(func(args ...string) client.Program { p.args = args; return p })
	if err != nil {
		return nil, errors.New("the helper does not list")
	}
	keys := make([]string, 0, len(found))
	for key := range found {
		keys = append(keys, key)
	}
	return keys, nil
}

// helperCredential makes a credential of a helper's answer. The server address
// in the answer is not looked at: what was asked for counts.
func helperCredential(name, username string, secret Secret) Credential {
	c := Credential{Username: username, Password: secret, Source: "helper docker-credential-" + name, Minted: true}
	if username == "<token>" {
		c.Username, c.Password, c.Identity = "", "", secret
	}
	return c
}

func helperError(name, key string, why error) error {
	if !validHelperName(name) {
		return oci.ErrDenied.With("the credential helper %s, named for %s, was not run: %v", quoted(name), quoted(key), why)
	}
	return oci.ErrDenied.With("the credential helper docker-credential-%s %v when asked for %s: run `echo %s | docker-credential-%s get` by hand to see why, or run docker login again",
		name, why, quoted(key), key, name)
}

// program is one run of a helper: a client.Program that keeps to limits.
type program struct {
	ctx     context.Context
	path    string
	env     []string
	timeout time.Duration
	args    []string
	input   io.Reader
	err     error // why Output failed, fit to be shown
}

// Input implements client.Program.
func (p *program) Input(in io.Reader) { p.input = in }

// Output implements client.Program: it runs the helper and returns what it
// printed, which on failure the library reads for its kind.
func (p *program) Output() ([]byte, error) {
	in, err := io.ReadAll(io.LimitReader(p.input, maxHelperInput+1))
	if err != nil || len(in) > maxHelperInput {
		return nil, p.fail("was not run: the registry's name is longer than 1 KiB")
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.timeout)
	defer cancel()
	out := &limited{left: maxHelperOutput, full: cancel}
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Env = p.env
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stdout = out
	// What it says on stderr may hold secrets too, so nobody sees it.
	cmd.Stderr = nil
	cmd.WaitDelay = helperGrace
	ownGroup(cmd)
	err = cmd.Run()
	if err != nil && cmd.Process != nil {
		killGroup(cmd)
	}
	var exit *exec.ExitError
	switch {
	case out.left < 0:
		return nil, p.fail("printed more than 64 KiB and was stopped")
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		// In the latter case a child held the output open; the answer is there.
		return out.kept, nil
	case ctx.Err() != nil:
		return nil, p.fail(fmt.Sprintf("gave no answer within %v and was stopped", p.timeout))
	case errors.As(err, &exit) && exit.Exited():
		return out.kept, p.fail(fmt.Sprintf("failed with exit status %d", exit.ExitCode()))
	case errors.As(err, &exit):
		return nil, p.fail("was killed by a signal")
	}
	return nil, p.fail("could not be started (is it an executable for this machine?)")
}

func (p *program) fail(why string) error {
	p.err = errors.New(why)
	return p.err
}

// limited is a buffer that stops the writer when it is full.
type limited struct {
	kept []byte // a bytes.Buffer would take whole reads past Write
	left int
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		l.full()
		return 0, errors.New("output is full")
	}
	l.kept = append(l.kept, p...)
	return len(p), nil
}

// validHelperName reports whether name, from a config file, may become part of
// a program's name: ^[a-z0-9][a-z0-9._-]{0,63}$.
func validHelperName(name string) bool {
	if name == "" || len(name) > 64 || strings.ContainsAny(name[:1], "._-") {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}
