package main

import (
	"bufio"
	"encoding/hex"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"pushproxy/proxy"
)

// holder says who has an address that could not be opened, as far as this
// machine tells: whoever it is gets what clients send there.
func holder(address string) string {
	var known []string
	if at, err := netip.ParseAddrPort(address); err == nil {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			f, err := os.Open(table)
			if err != nil {
				continue
			}
			known = append(known, listenersAt(f, at)...)
			_ = f.Close()
		}
	}
	client := &http.Client{Timeout: 2 * time.Second}
	response, err := client.Get("http://" + address + "/v2/")
	if err == nil {
		_ = response.Body.Close()
		if response.Header.Get("Server") == proxy.ServerName {
			known = append(known, "a pushproxy")
		}
	}
	if len(known) == 0 {
		return ""
	}
	return " (" + strings.Join(slices.Compact(known), ", ") + ")"
}

// The columns and the state of /proc/net/tcp (proc_pid_net(5)).
const (
	columnLocal = 1
	columnState = 3
	columnUser  = 7
	stateListen = "0A"
)

// listenersAt reads a table of sockets in the form of /proc/net/tcp and names
// the users whose programs listen at an address, or at every one with its port.
func listenersAt(table io.Reader, at netip.AddrPort) (users []string) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) <= columnUser || field[columnState] != stateListen {
			continue
		}
		local, ok := socketAddress(field[columnLocal])
		if !ok || local.Port() != at.Port() {
			continue
		}
		everywhere := local.Addr().IsUnspecified() || at.Addr().IsUnspecified()
		if !everywhere && local.Addr().Unmap() != at.Addr().Unmap() {
			continue
		}
		name := "user " + field[columnUser]
		if account, err := user.LookupId(field[columnUser]); err == nil {
			name += " " + account.Username
		}
		users = append(users, "of "+name)
	}
	return users
}

// socketAddress reads an address as the kernel prints it: words of four bytes
// in the machine's order, which is little-endian where pushproxy is built for.
func socketAddress(text string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(n)), ok
}
