package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestS3WhoListensIsReadFromTheSystemsTable(t *testing.T) {
	t.Parallel()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for _, c := range []struct {
		name, line, at string
		want           []string
	}{
		{"a listener at the address", "   0: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000 54321        0 1 2 3", "127.0.0.1:5001", []string{"of user 54321"}},
		{"one at every address", "   0: 00000000:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000 54321        0 1 2 3", "127.0.0.1:5001", []string{"of user 54321"}},
		{"one of IPv6", "   0: 00000000000000000000000001000000:1389 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 54321 0 1", "[::1]:5001", []string{"of user 54321"}},
		{"one of IPv6 at every address", "   0: 00000000000000000000000000000000:1389 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 54321 0 1", "127.0.0.1:5001", []string{"of user 54321"}},
		{"a mapped address", "   0: 0000000000000000FFFF00000100007F:1389 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 54321 0 1", "127.0.0.1:5001", []string{"of user 54321"}},
		{"root", "   0: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0        0 1 2 3", "127.0.0.1:5001", []string{"of user 0 root"}},
		{"another port", "   0: 0100007F:138A 00000000:0000 0A 00000000:00000000 00:00000000 00000000 54321        0 1 2 3", "127.0.0.1:5001", nil},
		{"another address", "   0: 0200007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000 54321        0 1 2 3", "127.0.0.1:5001", nil},
		{"a connection", "   0: 0100007F:1389 0100007F:9999 01 00000000:00000000 00:00000000 00000000 54321        0 1 2 3", "127.0.0.1:5001", nil},
		{"a line that is none", "   0: zz:1389 0A", "127.0.0.1:5001", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := listenersAt(strings.NewReader(head+c.line+"\n"), netip.MustParseAddrPort(c.at))
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
