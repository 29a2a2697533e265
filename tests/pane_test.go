package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pane is a program in a terminal: the one pane of a tmux server of its own.
type pane struct {
	t            *testing.T
	tmux, socket string
	raw          string // file with the bytes that the program wrote
	status       string // file with its exit status, when it has ended
}

// startPane runs a program in a terminal of a size. env is its whole environment.
func startPane(t *testing.T, width, height int, env []string, program string, args ...string) *pane {
	t.Helper()
	dir, err := os.MkdirTemp("", "pane") // a test's own directory has too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &pane{t: t, tmux: system(t, "tmux"), socket: filepath.Join(dir, "s"), raw: filepath.Join(dir, "raw"), status: filepath.Join(dir, "status")}
	config := writeFile(t, filepath.Join(dir, "tmux.conf"), "set -g status off\nset -g remain-on-exit on\nset -g history-limit 5000\n", 0o600)
	size := []string{"-x", fmt.Sprint(width), "-y", fmt.Sprint(height)}
	// Nothing is written before its bytes are recorded. tmux itself forgets the exit status now and then.
	started := filepath.Join(dir, "start")
	script := writeFile(t, filepath.Join(dir, "run.sh"), "while [ ! -e "+started+" ]; do sleep 0.05; done\ntrap : INT\n\"$@\"\necho $? >"+p.status+"\n", 0o600)
	line := append([]string{"-S", p.socket, "-f", config, "-u", "new-session", "-d"}, size...)
	line = append(append(append(line, "env", "-i"), env...), "TERM=tmux-256color", "sh", script, program)
	command{env: cleanEnv(dir)}.run(t, p.tmux, append(line, args...)...)
	t.Cleanup(func() { _, _, _ = command{env: cleanEnv(dir)}.try(t, p.tmux, "-S", p.socket, "kill-server") })
	p.do("pipe-pane", "-O", "cat >"+p.raw)
	writeFile(t, started, "", 0o600)
	return p
}

func (p *pane) do(args ...string) string {
	p.t.Helper()
	return command{env: cleanEnv(filepath.Dir(p.socket))}.run(p.t, p.tmux, append([]string{"-S", p.socket}, args...)...)
}

// screen is what can be seen now.
func (p *pane) screen() string {
	p.t.Helper()
	return strings.TrimRight(p.do("capture-pane", "-p"), "\n")
}

func (p *pane) resize(width, height int) {
	p.t.Helper()
	p.do("resize-window", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height))
}

func (p *pane) interrupt() {
	p.t.Helper()
	p.do("send-keys", "C-c")
}

// see waits until the screen has a text.
func (p *pane) see(text string) {
	p.t.Helper()
	poll(p.t, fmt.Sprintf("%q on the screen", text), func() bool { return strings.Contains(p.screen(), text) })
}

// ended waits for the end of the program and returns its exit status.
func (p *pane) ended() (status string) {
	p.t.Helper()
	poll(p.t, "the end of the program in the pane", func() bool {
		b, err := os.ReadFile(p.status)
		status = strings.TrimSpace(string(b))
		return err == nil && status != ""
	})
	return status
}
