package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

func TestAServiceManagersSocketsAreServedAndItIsToldHowThingsAre(t *testing.T) {
	t.Parallel()
	// The addresses of the configuration are taken: only the sockets that are passed can be served.
	d := prepareDoors(t, func(r *rig) { r.config.Listen = []string{"127.0.0.1:1"} })
	d.config.ForwardProxy.Listen = []string{"127.0.0.1:1"}
	d.written(t)
	registry, forward := passedSocket(t), passedSocket(t)
	heard, socket := notifications(t)
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve --config "$1"`, d.program, d.file)
	cmd.ExtraFiles = []*os.File{registry.file, forward.file}
	cmd.Env = append(d.rig.env, "LISTEN_FDS=2", "LISTEN_FDNAMES=registry:forward-proxy", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=400000")
	p, err := parts.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	wantNext(t, heard, p, "READY=1")
	api{url: "http://" + registry.address}.want(t, http.StatusOK, "GET", "/v2/", nil)
	d.proxy = forward.address
	d.inTunnel(t).want(t, http.StatusOK, "GET", "/v2/", nil)
	wantNext(t, heard, p, "WATCHDOG=1")
	wantNext(t, heard, p, "WATCHDOG=1")
	// A process that hangs is silent, which is what the manager restarts it for.
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(time.Second); ; {
		select {
		case <-heard:
			continue
		case <-deadline:
		}
		break
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wantNext(t, heard, p, "WATCHDOG=1")
	go p.Stop()
	wantNext(t, heard, p, "STOPPING=1")
	<-p.Done()
	if p.ExitCode() != 0 {
		t.Errorf("it ended with %d:\n%s", p.ExitCode(), p.Output())
	}
}

func TestASocketForEverybodyIsNotServed(t *testing.T) {
	t.Parallel()
	r := prepare(t, "http://127.0.0.1:1", nil)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve --config "$1"`, r.program, r.file)
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = append(r.env, "LISTEN_FDS=1")
	p, err := parts.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("it runs")
	}
	if p.ExitCode() == 0 || !strings.Contains(p.Output(), "not a loopback address") {
		t.Errorf("it ended with %d:\n%s", p.ExitCode(), p.Output())
	}
}

type passed struct {
	file    *os.File
	address string
}

func passedSocket(t *testing.T) passed {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // the copy listens on
	t.Cleanup(func() { _ = file.Close() })
	return passed{file, l.Addr().String()}
}

// notifications listens where a service manager does.
func notifications(t *testing.T) (<-chan string, string) {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	heard := make(chan string, 1000)
	go func() {
		defer close(heard)
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			heard <- string(b[:n])
		}
	}()
	return heard, path
}

// wantNext waits for a message, over repeated signs of life.
func wantNext(t *testing.T, heard <-chan string, p *parts.Process, want string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-heard:
			if got == want {
				return
			}
			if got != "WATCHDOG=1" {
				t.Fatalf("the service manager hears %q, want %q", got, want)
			}
		case <-deadline:
			t.Fatalf("the service manager did not hear %q:\n%s", want, lastLines(p.Output(), 20))
		}
	}
}

func TestTheUnitsAreWhatSystemdTakes(t *testing.T) {
	t.Parallel()
	analyze := system(t, "systemd-analyze")
	for name, c := range map[string]struct {
		flag string
		args []string
		dir  func(r *setupRig) string
	}{
		"the machine's": {"--system", nil, func(r *setupRig) string { return filepath.Join(r.root, "/etc/systemd/system") }},
		"a user's":      {"--user", []string{"--user"}, func(r *setupRig) string { return filepath.Join(r.root, r.home, ".config/systemd/user") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if os.Geteuid() != 0 && c.args == nil {
				leftOut(t, "the machine's units are written by root")
			}
			r := newSetupRig(t)
			r.must(t, append([]string{"systemd", "--apply"}, c.args...)...)
			dir := c.dir(r)
			var units []string
			for _, unit := range []string{"pushproxy.socket", "pushproxy-proxy.socket", "pushproxy.service"} {
				units = append(units, filepath.Join(dir, unit))
			}
			out, errs, err := command{env: append(cleanEnv(r.home), "SYSTEMD_LOG_LEVEL=warning")}.try(t, analyze, append([]string{"verify", c.flag, "--man=no"}, units...)...)
			if err != nil || strings.Contains(out+errs, "pushproxy") {
				t.Errorf("systemd-analyze verify: %v\n%s\n%s", err, out, errs)
			}
			service := readFile(t, units[2])
			for _, want := range []string{"Type=notify", "WatchdogSec=", "NoNewPrivileges=yes", fmt.Sprintf("ExecStart=%s serve", r.program)} {
				if !strings.Contains(service, want) {
					t.Errorf("the service does not say %q:\n%s", want, service)
				}
			}
		})
	}
}
