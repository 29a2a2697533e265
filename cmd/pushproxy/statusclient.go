package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/tmaxmax/go-sse"

	"pushproxy/authinject"
	"pushproxy/proxy"
)

const (
	// mostEvent bounds one event of the stream, the first of which holds everything.
	mostEvent = 64 << 20
	// reconnectAfter is the first pause before a lost connection is tried again; it
	// doubles up to reconnectMost.
	reconnectAfter = 100 * time.Millisecond
	reconnectMost  = 2 * time.Second
)

// instanceFlags say which running pushproxy a command asks; without them it is
// the one of the configuration, by its socket.
type instanceFlags struct{ url, tokenFile string }

func (f *instanceFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "url", "", "`URL` of a status listener to ask, such as http://127.0.0.1:5003 (default the one that serves data_dir, by its socket)")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with a token to show at --url, where one is asked for")
}

func (f instanceFlags) open(cmd *cobra.Command) (*instance, error) {
	if f.url != "" {
		return f.remote()
	}
	if f.tokenFile != "" {
		return nil, errors.New("--token-file goes with --url: the socket in data_dir asks for none")
	}
	c, err := loadConfig(cmd.Flags())
	if err != nil {
		return nil, err
	}
	return overSocket(c.DataDir), nil
}

func (f instanceFlags) remote() (*instance, error) {
	if why := webURL(f.url, "http://127.0.0.1:5003"); why != "" {
		return nil, fmt.Errorf("--url: %q %s", f.url, why)
	}
	base, err := url.Parse(f.url)
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	i := &instance{
		client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		base:   strings.TrimSuffix(base.String(), "/"),
		start:  "at " + base.Redacted() + ": start it with pushproxy serve; its addresses are status_listen in its configuration",
	}
	if f.tokenFile == "" {
		return i, nil
	}
	if base.Scheme != "https" && !onLoopback(base.Hostname()) {
		return nil, fmt.Errorf("--url: a token would pass the network in the clear to %s: use https", base.Host)
	}
	if err := proxy.Private(f.tokenFile); err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	raw, err := os.ReadFile(f.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	i.token = authinject.Secret(strings.TrimSpace(string(raw)))
	return i, nil
}

// follow hands over the events of the stream in order, until ctx ends or a
// function returns an error. When the connection is lost it says so and goes on
// after the last event as soon as a pushproxy answers again.
func (i *instance) follow(ctx context.Context, connected func(bool) error, handle func(sse.Event) error) error {
	last, pause, lost := "", reconnectAfter, false
	for {
		response, err := i.ask(ctx, "GET", "/v1/events", "Accept: text/event-stream", "Last-Event-ID: "+last)
		var refused *answer
		final := errors.As(err, &refused) && refused.status < http.StatusInternalServerError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && (last == "" || final):
			return err
		case err == nil:
			if lost {
				err = connected(true)
			}
			if err == nil {
				err = events(response.Body, &last, handle)
			}
			if err != nil {
				return err
			}
			lost, pause = false, reconnectAfter
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !lost {
			lost = true
			if err := connected(false); err != nil {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, reconnectMost)
	}
}

// events hands over the events of one connection until it ends; its error is
// that of handle. The last one may have been cut, so one that is not whole JSON
// is the end of the connection, too.
func events(body io.ReadCloser, last *string, handle func(sse.Event) error) error {
	defer body.Close()
	for e, err := range sse.Read(body, &sse.ReadConfig{MaxEventSize: mostEvent}) {
		if err != nil || !json.Valid([]byte(e.Data)) {
			return nil
		}
		if err := handle(e); err != nil {
			return err
		}
		*last = e.LastEventID
	}
	return nil
}
