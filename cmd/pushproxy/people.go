package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// aloneHere reports whether the user with the id is the only person who can log
// in to this machine: then what root's daemons ask for is that person's wish.
// Whatever is uncertain is no.
func aloneHere(uid int) bool {
	passwd, err := os.Open("/etc/passwd")
	if err != nil {
		return false
	}
	defer func() { _ = passwd.Close() }()
	// Without the file, accounts come from /etc/passwd.
	names, err := os.ReadFile("/etc/nsswitch.conf")
	if err != nil && !os.IsNotExist(err) {
		return false
	}
	return onlyLocalAccounts(string(names)) && onlyPerson(passwd, uid)
}

// The ids of people's accounts, as distributions give them out.
const (
	firstPerson = 1000
	lastPerson  = 59999
)

// onlyPerson reads accounts in passwd's format and reports whether the one
// person among them has the id.
func onlyPerson(passwd io.Reader, uid int) bool {
	found := 0
	lines := bufio.NewScanner(passwd)
	for lines.Scan() {
		field := strings.Split(lines.Text(), ":")
		if strings.HasPrefix(field[0], "+") {
			// Accounts from elsewhere (NIS).
			return false
		}
		if len(field) != 7 {
			continue
		}
		id, err := strconv.Atoi(field[2])
		if err != nil || id < firstPerson || id > lastPerson || strings.HasSuffix(field[6], "/nologin") || strings.HasSuffix(field[6], "/false") {
			continue
		}
		if id != uid {
			return false
		}
		found++
	}
	return lines.Err() == nil && found > 0
}

// onlyLocalAccounts reads nsswitch.conf and reports whether accounts are in
// files of this machine alone.
func onlyLocalAccounts(conf string) bool {
	for line := range strings.Lines(conf) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "passwd:")
		if !ok {
			continue
		}
		for _, source := range strings.Fields(rest) {
			if source != "files" && source != "compat" && source != "systemd" && source[0] != '[' {
				return false
			}
		}
	}
	return true
}
