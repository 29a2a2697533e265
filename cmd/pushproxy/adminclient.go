package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// errNotRunning means that no pushproxy serves the data directory.
var errNotRunning = errors.New("no pushproxy is running")

// ask sends an order to the pushproxy that serves a data directory; the caller
// closes the answer's body. An order that is refused is an error.
func ask(ctx context.Context, dataDir, method, path string) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", adminSocket(dataDir))
		},
	}}
	r, err := http.NewRequestWithContext(ctx, method, "http://pushproxy"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(r)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w with the data directory %s: start it with pushproxy serve, or name its configuration with --config", errNotRunning, dataDir)
	}
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	return nil, refusal(response)
}

// refusal reads the error of a refused order.
func refusal(response *http.Response) error {
	var body struct {
		Errors []struct{ Message string }
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && json.Unmarshal(raw, &body) == nil && len(body.Errors) > 0 {
		return errors.New(body.Errors[0].Message)
	}
	return fmt.Errorf("the running pushproxy answered %s", response.Status)
}

// order sends an order and reads the answer into v.
func order(ctx context.Context, dataDir, method, path string, v any) error {
	response, err := ask(ctx, dataDir, method, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(v)
}

// printJSON writes v for scripts.
func printJSON(out io.Writer, v any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	_, err := out.Write(harmless(b.Bytes()))
	return err
}

// harmless escapes in JSON what could steer a terminal and JSON itself lets pass.
func harmless(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r < 0x7f || r != utf8.RuneError && unicode.IsPrint(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}
