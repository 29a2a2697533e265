package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// The names of sockets in systemd's units (FileDescriptorName=).
const (
	socketRegistry = "registry"
	socketForward  = "forward-proxy"
)

// firstSocket is the first descriptor that a service manager passes
// (sd_listen_fds(3)).
const firstSocket = 3

// inherited returns the listeners that a service manager opened for this
// process, by name; none is the ordinary case. Names that are not ours mean the
// registry door. Like every listener, they must be on loopback.
func inherited() (byName map[string][]net.Listener, err error) {
	count, pid, names := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID"), strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		// Not for the programs that this one runs.
		_ = os.Unsetenv(name)
	}
	n, err := strconv.Atoi(count)
	if pid != strconv.Itoa(os.Getpid()) || err != nil {
		return nil, nil
	}
	byName = map[string][]net.Listener{}
	for i := range n {
		name := socketRegistry
		if i < len(names) && names[i] == socketForward {
			name = socketForward
		}
		file := os.NewFile(uintptr(firstSocket+i), name)
		l, err := net.FileListener(file)
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("socket %d from the service manager: %w", i+1, err)
		}
		if why := loopback(l.Addr().String()); why != "" {
			return nil, fmt.Errorf("socket %d from the service manager: %s %s", i+1, l.Addr(), why)
		}
		byName[name] = append(byName[name], l)
	}
	return byName, nil
}

// notify tells the service manager a state (sd_notify(3)); without one it does
// nothing.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// watchdog tells the service manager that this process is alive for as long as
// its door answers, twice as often as it asked for (sd_watchdog_enabled(3)).
func watchdog(ctx context.Context, address string) {
	micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || micros <= 0 || (pid != "" && pid != strconv.Itoa(os.Getpid())) {
		return
	}
	every := time.Duration(micros) * time.Microsecond / 2
	client := &http.Client{Timeout: every, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ping(ctx, client, address) == nil {
			// A manager that is gone does not wait for it either.
			_ = notify("WATCHDOG=1")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func ping(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
