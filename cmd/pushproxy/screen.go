package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/mattn/go-runewidth"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// terminal returns the terminal that a command writes to, if it is one that can
// show what changes in place.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// plain is how a text looks where the locale has no letters beyond ASCII: its
// bytes would be taken for others, some of which steer terminals.
func plain(text string) string {
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	if strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, text)
}

// localized writes to a terminal what its locale can show; what is piped stays as
// it is.
type localized struct{ io.Writer }

// Write implements io.Writer; text comes whole, not cut within a letter.
func (l localized) Write(p []byte) (int, error) {
	if _, ok := terminal(l.Writer); !ok {
		return l.Writer.Write(p)
	}
	if _, err := io.WriteString(l.Writer, plain(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// screen shows rows that change in place at the bottom of a terminal, below the
// lines that are said.
type screen struct {
	out      *os.File
	rows     func(width, height int) []string
	progress *mpb.Progress
	bar      *mpb.Bar
	mu       sync.Mutex
	below    []string // rows of this frame after the first
	over     bool
}

// newScreen prints a title and draws below it, again and again until close, the
// rows that the function returns. Those that are wider, or more, than asked for
// are cut.
func newScreen(out *os.File, title string, rows func(width, height int) []string) *screen {
	fmt.Fprintln(out, title)
	s := &screen{out: out, rows: rows, progress: mpb.New(mpb.WithOutput(out))}
	s.bar = s.progress.MustAdd(0, mpb.BarFillerFunc(s.first), mpb.BarFillerTrim(), mpb.BarExtender(mpb.BarFillerFunc(s.others), false))
	return s
}

// first draws the first row; mpb asks for it before the others.
func (s *screen) first(w io.Writer, stat decor.Statistics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.below = nil
	// The last row stays free, since a terminal scrolls when it is ended, and so does
	// the first: some keep in their history what is erased from there.
	width, height := stat.AvailableWidth-1, 2
	if _, h, err := term.GetSize(int(s.out.Fd())); err == nil {
		height = h - 2
	}
	if s.over || width < 1 || height < 1 {
		return nil
	}
	rows := s.rows(width, height)
	for i := range rows {
		rows[i] = runewidth.Truncate(plain(rows[i]), width, "")
	}
	rows = rows[:min(len(rows), height)]
	if len(rows) == 0 {
		return nil
	}
	s.below = rows[1:]
	_, err := io.WriteString(w, rows[0])
	return err
}

func (s *screen) others(w io.Writer, _ decor.Statistics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range s.below {
		if _, err := fmt.Fprintln(w, row); err != nil {
			return err
		}
	}
	return nil
}

// say prints a line that stays, above the rows. The error is that of a terminal
// that has gone.
func (s *screen) say(line string) error {
	_, err := fmt.Fprintln(s.progress, plain(line))
	return err
}

// close takes the rows away.
func (s *screen) close() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.bar.Abort(true)
	s.progress.Wait()
}
