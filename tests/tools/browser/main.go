// Command browser drives a real Chromium for tests and pictures: it reads one command per line from its standard input, as
// JSON, and writes one answer per line. It is a program of its own so that what drives browsers is no dependency of pushproxy.
//
//	{"do":"open","tab":"a","url":"http://…"}   a new tab (early, noscript), or another address in an old one; width, height, scale, scheme
//	{"do":"eval","tab":"a","script":"1+1"}     the value of an expression; of a promise, what it becomes
//	{"do":"picture","tab":"a","file":"a.png"}  what the tab shows
//	{"do":"seen","tab":"a"}                    everything that happened in the tab so far
//	{"do":"close","tab":"a"}
//
// The answer is {"value":…} or {"error":"…"}; beside an error stands "why":"thrown" where the script threw, and "why":"replaced"
// where another page took the place of the one in which it ran. It ends, and the browser with it, at the end of the input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: browser CHROMIUM")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

// command is one line of the input.
type command struct {
	Do, Tab, URL, Script, File string
	Width, Height              int64
	Scale                      float64
	Scheme                     string // dark or light
	Early                      string // runs in the page before the page's own scripts
	NoScript                   bool   // the page's scripts do not run
}

// seen is what happened in a tab.
type seen struct {
	Dialogs  []string `json:"dialogs"`  // texts of alert() and its kin
	Console  []string `json:"console"`  // messages, exceptions and the browser's own complaints, violations of policies among them
	Requests []string `json:"requests"` // addresses
}

type tab struct {
	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex
	seen   seen
}

func serve(chromium string) error {
	dir, err := os.MkdirTemp("", "browser-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(chromium), chromedp.UserDataDir(dir), chromedp.WSURLReadTimeout(2*time.Minute),
		chromedp.Flag("headless", "new"), chromedp.Flag("no-sandbox", os.Geteuid() == 0), chromedp.Flag("disable-gpu", true), chromedp.Flag("hide-scrollbars", true))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	browser, end := chromedp.NewContext(alloc)
	defer end()
	if err := chromedp.Do(browser); err != nil { // starts it
		return err
	}
	tabs := map[string]*tab{}
	lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var c command
		value, err := any(nil), json.Unmarshal(lines.Bytes(), &c)
		if err == nil {
			value, err = run(browser, tabs, c)
		}
		answer := map[string]any{"value": value}
		if err != nil {
			answer = map[string]any{"error": err.Error(), "why": why(err)}
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), chromedp.Cancel(browser))
}

// replaced are the words with which Chromium ends what it was asked about a page when another takes that page's place.
var replaced = []string{
	"navigated or closed", "context was destroyed", "Cannot find context with specified id", "Cannot find default execution context",
	"uniqueContextId not found", "Promise was collected", "No node with given id", "Not attached to an active page",
}

// why tells the errors apart that a caller may expect.
func why(err error) string {
	if thrown := (*chromedp.ExceptionError)(nil); errors.As(err, &thrown) {
		return "thrown"
	}
	if slices.ContainsFunc(replaced, func(words string) bool { return strings.Contains(err.Error(), words) }) {
		return "replaced"
	}
	return ""
}

func run(browser context.Context, tabs map[string]*tab, c command) (any, error) {
	t := tabs[c.Tab]
	if t == nil && c.Do == "open" {
		t = &tab{}
		t.ctx, t.cancel = chromedp.NewContext(browser, chromedp.WithNewBrowserContext()) // no connections or caches in common
		if err := t.prepare(c); err != nil {
			return nil, err
		}
		tabs[c.Tab] = t
	}
	if t == nil {
		return nil, fmt.Errorf("no tab %q", c.Tab)
	}
	ctx, cancel := context.WithTimeout(t.ctx, 2*time.Minute) // a busy machine may take long, but not for ever
	defer cancel()
	switch c.Do {
	case "open":
		if err := chromedp.Do(ctx, looks(c)...); err != nil {
			return nil, err
		}
		return nil, chromedp.Do(ctx, chromedp.Navigate(c.URL))
	case "eval":
		return chromedp.Run(ctx, chromedp.Evaluate[any](c.Script, func(p *runtime.EvaluateParams) { yes := true; p.AwaitPromise = &yes }))
	case "picture":
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			return nil, err
		}
		return nil, os.WriteFile(c.File, png, 0o644)
	case "seen":
		t.mu.Lock()
		defer t.mu.Unlock()
		return seen{slices.Clone(t.seen.Dialogs), slices.Clone(t.seen.Console), slices.Clone(t.seen.Requests)}, nil
	case "close":
		delete(tabs, c.Tab)
		return nil, chromedp.Cancel(t.ctx)
	}
	return nil, fmt.Errorf("do is %q; it can be open, eval, picture, seen or close", c.Do)
}

// prepare sets a new tab up and writes down what happens in it.
func (t *tab) prepare(c command) error {
	if err := chromedp.Listen(t.ctx, t.note); err != nil {
		return err
	}
	steps := []chromedp.Action[chromedp.Void]{call(page.Enable, page.EnableParams{}), call(network.Enable, network.EnableParams{}), call(log.Enable, cdp.Empty{})}
	if c.Early != "" {
		steps = append(steps, call(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: c.Early}))
	}
	if c.NoScript {
		steps = append(steps, call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	}
	return chromedp.Do(t.ctx, steps...)
}

// looks makes a tab as large and as dark as the command wants it.
func looks(c command) []chromedp.Action[chromedp.Void] {
	width, height, scale := c.Width, c.Height, c.Scale
	if width == 0 || height == 0 {
		width, height = 1280, 900
	}
	if scale == 0 {
		scale = 1
	}
	return []chromedp.Action[chromedp.Void]{
		chromedp.EmulateViewport(width, height, chromedp.EmulateScale(scale)),
		call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: c.Scheme}}}),
	}
}

func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, command, params)
		return err
	})
}

func (t *tab) note(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *page.EventJavascriptDialogOpening:
		t.seen.Dialogs = append(t.seen.Dialogs, e.Message)
		go func() { // the page stands still until somebody answers
			_ = chromedp.Do(t.ctx, call(page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true}))
		}()
	case *runtime.EventConsoleAPICalled:
		for _, arg := range e.Args {
			t.seen.Console = append(t.seen.Console, string(e.Type)+": "+string(arg.Value)+arg.Description)
		}
	case *runtime.EventExceptionThrown:
		t.seen.Console = append(t.seen.Console, "exception: "+e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		t.seen.Console = append(t.seen.Console, string(e.Entry.Source)+": "+e.Entry.Text)
	case *network.EventRequestWillBeSent:
		t.seen.Requests = append(t.seen.Requests, e.Request.URL)
	}
}
