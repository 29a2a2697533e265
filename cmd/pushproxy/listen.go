package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// listenAt opens one address. A unix socket that a killed program left behind is
// replaced.
func listenAt(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s is there already and not a socket; remove it", path)
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s is in use by another program; end it or choose another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", path)
}

// notListening says why an address of a key could not be opened, and what to do.
func notListening(key, flag, address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("%s is in use by another program%s; end it, or", address, holder(address))
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: only root may open ports below 1024, and sockets where you may not write;", err)
	default:
		err = fmt.Errorf("%w;", err)
	}
	without := ""
	if key != "listen" {
		without = fmt.Sprintf(", or go without with %s: []", key)
	}
	return fmt.Errorf("%s: %w choose another address with --%s%s", key, err, flag, without)
}

// named are the configured host names with the ports of the listeners.
func named(hosts []string, listeners []net.Listener) (addresses []string) {
	for _, l := range listeners {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			for _, host := range hosts {
				addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(tcp.Port)))
			}
		}
	}
	return addresses
}

// inTheClear is the address of a listener that takes plain HTTP; empty: none.
func inTheClear(listeners []net.Listener) string {
	for _, l := range listeners {
		if alone(l) {
			return l.Addr().String()
		}
	}
	return ""
}
