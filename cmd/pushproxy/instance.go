package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"pushproxy/authinject"
)

// errNotRunning means that no pushproxy answers.
var errNotRunning = errors.New("no pushproxy is running")

// instance is a running pushproxy that a command asks and gives orders.
type instance struct {
	client *http.Client
	base   string
	start  string // what to do when nothing answers
	token  authinject.Secret
}

// overSocket is the pushproxy that serves a data directory.
func overSocket(dataDir string) *instance {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", adminSocket(dataDir))
	}}
	return &instance{client: &http.Client{Transport: transport}, base: "http://pushproxy",
		start: "with the data directory " + dataDir + ": start it with pushproxy serve, or name its configuration with --config"}
}

// answer is a refusal by a running pushproxy.
type answer struct {
	status int
	text   string
}

// Error implements error.
func (a *answer) Error() string { return a.text }

// ask sends a request, with headers as "Name: value" where there is a value; the caller closes the
// answer's body. The error is errNotRunning when nothing answers, and an *answer
// when a pushproxy refuses.
func (i *instance) ask(ctx context.Context, method, path string, headers ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, i.base+path, nil)
	if err != nil {
		return nil, err
	}
	for _, header := range headers {
		if name, value, _ := strings.Cut(header, ": "); value != "" {
			r.Header.Set(name, value)
		}
	}
	if i.token != "" {
		r.SetBasicAuth("token", i.token.Reveal())
	}
	response, err := i.client.Do(r)
	switch {
	case err != nil && ctx.Err() == nil && unheard(err):
		return nil, fmt.Errorf("%w %s", errNotRunning, i.start)
	case err != nil:
		return nil, err
	case response.StatusCode == http.StatusOK:
		return response, nil
	}
	defer response.Body.Close()
	return nil, i.refusal(response)
}

// unheard tells whether a request failed since nobody listens, rather than since
// whoever does is out of reach for this user or busy.
func unheard(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial" && !errors.Is(err, os.ErrPermission) && !errors.Is(err, syscall.EAGAIN)
}

// refusal reads the error of a refused request.
func (i *instance) refusal(response *http.Response) *answer {
	refused := &answer{response.StatusCode, "the running pushproxy answered " + response.Status}
	var body struct {
		Errors []struct{ Message string }
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && json.Unmarshal(raw, &body) == nil && len(body.Errors) > 0 {
		refused.text = body.Errors[0].Message
	}
	refused.text = printable(refused.text)
	if refused.status == http.StatusUnauthorized && i.token == "" {
		refused.text += "; show a token with --token-file"
	}
	return refused
}

// order sends a request and reads the answer into v.
func (i *instance) order(ctx context.Context, method, path string, v any) error {
	response, err := i.ask(ctx, method, path, "Accept: application/json")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(v); err != nil {
		return fmt.Errorf("the answer to %s cannot be read: %w", path, err)
	}
	return nil
}
