package parts

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a started program whose standard output and error are kept. All methods may be called from any goroutine.
type Process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

// Start runs cmd in its own process group, which ends when this process does (on Linux also when this process is killed).
// Stdout and Stderr of cmd must be nil.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.SysProcAttr = procAttr()
	cmd.WaitDelay = 2 * time.Second // a grandchild may keep the pipe open
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output returns what the program has printed so far, both streams in order of arrival.
func (p *Process) Output() string { return p.out.String() }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode returns the exit code of an ended program, -1 when a signal ended it; call it after Done.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Kill sends SIGKILL to the program alone and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal to the program alone; one that has ended gets none.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Stop asks the program to end (SIGTERM), and after thirty seconds, which is longer than
// pushproxy takes to end its work, kills its whole process group. A second Stop does nothing.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Ready polls probe until it returns nil. It fails when the program ends first or ctx is over, with the program's output.
func (p *Process) Ready(ctx context.Context, probe func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := probe()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %v\n%s", filepath.Base(p.cmd.Path), p.err, tail(p.Output()))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w\n%s", filepath.Base(p.cmd.Path), err, ctx.Err(), tail(p.Output()))
		case <-tick.C:
		}
	}
}

// Answers returns a probe for Ready: any HTTP answer at url counts.
func Answers(client *http.Client, url string) func() error {
	return func() error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
