package parts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
)

// BrowserDriver returns the program of tests/tools/browser, built as Tools are. It has a module of its own: what drives
// browsers is no dependency of anything else.
func BrowserDriver(ctx context.Context) (string, error) {
	dir, err := toolsOf(ctx, filepath.Join("tests", "tools", "browser"))
	return filepath.Join(dir, "browser"), err
}

// Browser is a running Chromium without a window. Its methods may be called from any goroutine; commands run one after the
// other.
type Browser struct {
	cmd     *exec.Cmd
	mu      sync.Mutex
	in      io.WriteCloser
	answers *bufio.Scanner
}

// BrowserTab is how a tab is opened.
type BrowserTab struct {
	URL           string  `json:"url"`
	Width, Height int64   // pixels; 1280 × 900 unless set
	Scale         float64 // pixels of a picture per pixel; 1 unless set
	Scheme        string  // dark or light; what the browser has unless set
	Early         string  // JavaScript that runs before the page's own; of new tabs
	NoScript      bool    // the page's own does not run; of new tabs
}

// BrowserSeen is what happened in a tab.
type BrowserSeen struct {
	Dialogs  []string // texts of alert() and its kin
	Console  []string // messages, exceptions and the browser's complaints, of violated policies too
	Requests []string // addresses
}

// Errors of Eval that a caller may expect, and wait for an end of.
var (
	// ErrThrown is a script that threw, for instance because the page does not have yet what it looks for.
	ErrThrown = errors.New("the script threw")
	// ErrReplaced is a script whose page made room for another before it had answered. It may have run or not.
	ErrReplaced = errors.New("another page took the place of the one that was asked")
)

// StartBrowser starts Chromium, a program of the system, under the driver.
func StartBrowser(driver, chromium string, env []string) (*Browser, error) {
	cmd := exec.Command(driver, chromium)
	cmd.Env, cmd.SysProcAttr = env, procAttr()
	errs := &output{}
	cmd.Stderr = errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b := &Browser{cmd: cmd, in: in, answers: bufio.NewScanner(out)}
	b.answers.Buffer(nil, 16<<20)
	return b, nil
}

// Stop ends the browser.
func (b *Browser) Stop() {
	_ = b.in.Close() // the driver then stops the browser and removes what it wrote
	_ = b.cmd.Wait()
}

// Open opens an address in a new tab with that name, or in the tab that has it.
func (b *Browser) Open(name string, tab BrowserTab) error {
	return b.do("open", name, tab, nil)
}

// Eval stores the value of a JavaScript expression in into, as JSON does; of a promise, what it becomes. It may fail with
// ErrThrown or ErrReplaced.
func (b *Browser) Eval(name, script string, into any) error {
	return b.do("eval", name, map[string]string{"script": script}, into)
}

// Picture writes what a tab shows to a PNG file.
func (b *Browser) Picture(name, file string) error {
	return b.do("picture", name, map[string]string{"file": file}, nil)
}

// Seen returns what has happened in a tab.
func (b *Browser) Seen(name string) (BrowserSeen, error) {
	var seen BrowserSeen
	return seen, b.do("seen", name, nil, &seen)
}

// Close closes a tab.
func (b *Browser) Close(name string) error { return b.do("close", name, nil, nil) }

func (b *Browser) do(what, tab string, more, into any) error {
	command := map[string]any{}
	if more != nil {
		fields, err := json.Marshal(more)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(fields, &command); err != nil {
			return err
		}
	}
	command["do"], command["tab"] = what, tab
	line, err := json.Marshal(command)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("browser: %w: %s", err, b.said())
	}
	if !b.answers.Scan() {
		return fmt.Errorf("browser: it has ended: %w: %s", errors.Join(b.answers.Err(), io.ErrUnexpectedEOF), b.said())
	}
	var answer struct {
		Value      json.RawMessage
		Error, Why string
	}
	if err := json.Unmarshal(b.answers.Bytes(), &answer); err != nil {
		return fmt.Errorf("browser: %w", err)
	}
	if answer.Error != "" {
		err := errors.New(answer.Error)
		switch answer.Why {
		case "thrown":
			err = fmt.Errorf("%w: %w", ErrThrown, err)
		case "replaced":
			err = fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		return fmt.Errorf("browser: %s tab %s: %w", what, tab, err)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Value, into)
}

func (b *Browser) said() string { return tail(b.cmd.Stderr.(*output).String()) }
