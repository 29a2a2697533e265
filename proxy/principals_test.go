package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"pushproxy/oci"
)

// from is a request that arrives from the address with headers "Name: value".
func from(remote string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/v2/", nil)
	r.RemoteAddr = remote
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5001})))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func basic(user, password string) string {
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth(user, password)
	return "Authorization: " + r.Header.Get("Authorization")
}

// processOf answers a lookup of sockets.
func processOf(uid int, err error) func(pair) (int, error) {
	return func(pair) (int, error) { return uid, err }
}

const here, there = "127.0.0.1:40000", "192.0.2.7:40000"

func TestS2WhoIsLocalByItsSocket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		auth   Auth
		alone  bool
		remote string
		lookup func(pair) (int, error)
		local  bool
	}{
		{"our own user", AuthAuto, false, here, processOf(1000, nil), true},
		{"our own user by IPv6", AuthAuto, false, "[::1]:40000", processOf(1000, nil), true},
		{"our own user by a mapped address", AuthAuto, false, "[::ffff:127.0.0.1]:40000", processOf(1000, nil), true},
		{"another user", AuthAuto, true, here, processOf(1001, nil), false},
		{"root where several people are", AuthAuto, false, here, processOf(0, nil), false},
		{"root where one person is", AuthAuto, true, here, processOf(0, nil), true},
		{"a socket that is not found", AuthAuto, true, here, processOf(0, errPeer), false},
		{"an address beyond loopback", AuthAuto, true, there, processOf(1000, nil), false},
		{"no address", AuthAuto, true, "@", processOf(1000, nil), false},
		{"our own user where tokens are asked for", AuthToken, true, here, processOf(1000, nil), false},
		{"our own user where accounts are asked for", AuthHtpasswd, true, here, processOf(1000, nil), false},
		{"our own user where the client's credentials are used", AuthPassthrough, true, here, processOf(1000, nil), false},
		{"our own user where nothing is configured", "", true, here, processOf(1000, nil), false},
		{"anybody where nobody is asked", AuthNone, false, there, processOf(0, errPeer), true},
	} {
		p := &Principals{Auth: c.auth, UID: 1000, RootIsLocal: c.alone, lookup: c.lookup}
		caller, err := p.identify(from(c.remote))
		if (err == nil) != c.local || (err == nil && caller.Principal != Local) || (err != nil && !errors.Is(err, errLogin)) {
			t.Errorf("%s: %+v, %v", c.name, caller, err)
		}
	}
	if _, err := (*Principals)(nil).identify(from(here)); !errors.Is(err, errLogin) {
		t.Errorf("without principals everybody is %v", err)
	}
}

// A socket could change hands between the connection and a request.
func TestS2APeerThatIsAnotherThanBeforeIsNobody(t *testing.T) {
	t.Parallel()
	uid, failing := 1000, error(nil)
	p := &Principals{Auth: AuthAuto, UID: 1000, lookup: func(pair) (int, error) { return uid, failing }}
	accept := func() *http.Request {
		r := from(here)
		client, server := connect(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
		_ = client
		return r.WithContext(p.ConnContext(r.Context(), &slotted{Conn: server, slots: &Slots{free: make(chan struct{}, 1)}}))
	}
	r := accept()
	if _, err := p.identify(r); err != nil {
		t.Fatal(err)
	}
	failing = errPeer
	if _, err := p.identify(r); err == nil {
		t.Error("a peer that has closed its end is local")
	}
	failing, uid = nil, 1001
	if _, err := p.identify(r); err == nil {
		t.Error("a peer that is another user by now is local")
	}
	r = accept()
	uid = 1000
	if _, err := p.identify(r); err == nil {
		t.Error("a peer that was another user before is local")
	}
	failing = errPeer
	r = accept()
	failing = nil
	if _, err := p.identify(r); err == nil {
		t.Error("a peer that was not known when it connected is local")
	}
}

func tokensIn(t *testing.T) *Tokens {
	t.Helper()
	return &Tokens{File: filepath.Join(t.TempDir(), "tokens.json")}
}

func TestS1WhatIsShownDecides(t *testing.T) {
	t.Parallel()
	store := tokensIn(t)
	_, whole, err := store.Create("whole", Local, 0, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	ci, some, err := store.Create("ci", Local, 0, Scope{Verbs: []Verb{VerbPush}})
	if err != nil {
		t.Fatal(err)
	}
	_, bob, err := store.Create("bob", "bob", time.Hour, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	p := &Principals{Auth: AuthAuto, Tokens: store, UID: 1000, lookup: processOf(1000, nil), Allow: map[string]Scope{"bob": {Upstreams: []string{"a.test"}}}}
	for _, c := range []struct {
		name, header string
		want         string // principal; empty: refused
		scopes       int
	}{
		{"a token as password", basic("x", whole.Reveal()), Local, 0},
		{"a token as bearer", "Authorization: Bearer " + whole.Reveal(), Local, 0},
		{"a token with a scope", basic("x", some.Reveal()), Local + "#" + ci.ID, 1},
		{"a token of another principal with its limits", basic("x", bob.Reveal()), "bob", 1},
		{"a wrong token, though the process is ours", basic("x", tokenPrefix+"wrong"), "", 0},
		{"a password, though the process is ours", basic("x", "secret"), "", 0},
		{"an empty password", basic("x", ""), "", 0},
		{"the token as user name", basic(whole.Reveal(), ""), "", 0},
		{"the hash of a token", basic("x", ci.Hash), "", 0},
		{"a token with more behind it", basic("x", whole.Reveal()+"x"), "", 0},
		{"another scheme", "Authorization: Digest " + whole.Reveal(), "", 0},
		{"an empty header", "Authorization: ", "", 0},
	} {
		caller, err := p.identify(from(here, c.header))
		if caller.Principal != c.want || len(caller.Scopes) != c.scopes || (err == nil) == (c.want == "") {
			t.Errorf("%s: %+v, %v", c.name, caller, err)
		}
	}
	if _, err := p.identify(from(here, basic("x", whole.Reveal()), basic("x", bob.Reveal()))); err == nil {
		t.Error("two logins in one request are taken")
	}
}

func TestPassthroughMakesAPrincipalOfEachCredential(t *testing.T) {
	t.Parallel()
	p := &Principals{Auth: AuthPassthrough, Secret: "installation"}
	seen := map[string]string{}
	for _, c := range [][2]string{{"AWS", "one"}, {"AWS", "two"}, {"AWSo", "ne"}, {"local", "x"}, {"given", "x"}} {
		caller, err := p.identify(from(there, basic(c[0], c[1])))
		if err != nil {
			t.Fatal(err)
		}
		if before, twice := seen[caller.Principal]; twice || caller.Given.Username != c[0] || caller.Given.Password.Reveal() != c[1] {
			t.Errorf("%v is %+v, as %s", c, caller, before)
		}
		if seen[caller.Principal] = c[0]; Base(caller.Principal) != given || strings.Contains(caller.Principal, c[1]+"x") {
			t.Errorf("%v acts as %s", c, caller.Principal)
		}
		again, err := p.identify(from(here, basic(c[0], c[1])))
		if err != nil || again.Principal != caller.Principal {
			t.Errorf("%v is another principal the next time", c)
		}
		other, err := (&Principals{Auth: AuthPassthrough, Secret: "another"}).identify(from(here, basic(c[0], c[1])))
		if err != nil || other.Principal == caller.Principal {
			t.Errorf("the name of %v can be computed without the installation's secret", c)
		}
	}
	for _, header := range []string{basic("", "x"), basic("x", ""), "X: y"} {
		if _, err := p.identify(from(here, header)); !errors.Is(err, errLogin) {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func accounts(t *testing.T, lines ...string) *Accounts {
	t.Helper()
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAccounts(file)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func account(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(hash)
}

func TestAccountsOfAnHtpasswdFile(t *testing.T) {
	t.Parallel()
	a := accounts(t, "# people", account(t, "ann", "right"), "", account(t, "bob", "other"))
	p := &Principals{Auth: AuthHtpasswd, Accounts: a, lookup: processOf(1001, nil)}
	for _, c := range []struct{ user, password, want string }{
		{"ann", "right", "ann"}, {"bob", "other", "bob"}, {"ann", "other", ""}, {"eve", "right", ""}, {"", "right", ""}, {"ann", "", ""},
	} {
		caller, err := p.identify(from(here, basic(c.user, c.password)))
		if caller.Principal != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%v: %+v, %v", c, caller, err)
		}
	}
	// A password that was changed counts at once.
	if err := os.WriteFile(a.file+".new", []byte(account(t, "ann", "changed")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(a.file+".new", a.file); err != nil {
		t.Fatal(err)
	}
	for password, fine := range map[string]bool{"right": false, "changed": true} {
		if _, err := p.identify(from(here, basic("ann", password))); (err == nil) != fine {
			t.Errorf("after the change %q is answered %v", password, err)
		}
	}
}

func TestS1GuessesAreCountedAndRightPasswordsAreNot(t *testing.T) {
	t.Parallel()
	a := accounts(t, account(t, "ann", "right"))
	store := tokensIn(t)
	_, token, err := store.Create("t", Local, 0, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		p := &Principals{Auth: AuthHtpasswd, Accounts: a, Tokens: store, lookup: processOf(1001, nil)}
		// Right before the guesses: remembered.
		if _, err := p.identify(from(here, basic("ann", "right"))); err != nil {
			t.Fatal(err)
		}
		looked := func(remote string, n int) (count int) {
			for range n {
				if _, err := p.identify(from(remote, basic("ann", "wrong"))); !errors.Is(err, oci.ErrTooManyRequests) {
					count++
				}
			}
			return count
		}
		if n := looked(here, 40); n > guessesAtOnce {
			t.Errorf("%d guesses at once were looked at", n)
		}
		time.Sleep(time.Second)
		if n := looked(here, 40); n != guessesPerSecond {
			t.Errorf("%d guesses in a second were looked at", n)
		}
		if n := looked(there, 5); n != 5 {
			t.Errorf("the guesses of others leave %d of 5", n)
		}
		for name, header := range map[string]string{"password": basic("ann", "right"), "token": basic("x", token.Reveal())} {
			if _, err := p.identify(from(here, header)); err != nil {
				t.Errorf("a right %s is refused after others' guesses: %v", name, err)
			}
		}
	})
}

func TestManyPeersShareWhatIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFailures()
		for i := range 3 * maxPeers {
			_ = f.take(string(rune('a'+i%26)) + strings.Repeat("x", i))
		}
		if len(f.peers) > maxPeers+1 {
			t.Errorf("%d peers are remembered", len(f.peers))
		}
		if err := f.take("somebody new"); err == nil {
			t.Error("a flood of peers has no limit")
		}
		time.Sleep(time.Minute)
		if err := f.take("somebody newer"); err != nil || len(f.peers) > maxPeers {
			t.Errorf("after a minute: %v with %d peers", err, len(f.peers))
		}
	})
}

func TestAnHtpasswdFileThatCannotBeReliedOnIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"with a plain password":        {"ann:right", 0o600},
		"with a hash of another kind":  {"ann:$apr1$x$y", 0o600},
		"with the name local":          {account(t, "local", "x"), 0o600},
		"with a name that is reserved": {account(t, "given", "x"), 0o600},
		"with a principal's token":     {account(t, "a#b", "x"), 0o600},
		"with a name twice":            {account(t, "ann", "x") + "\n" + account(t, "ann", "y"), 0o600},
		"that others can write":        {account(t, "ann", "x"), 0o666},
	} {
		file := filepath.Join(t.TempDir(), "htpasswd")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenAccounts(file); err == nil || strings.Contains(err.Error(), "right") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a client sends as its login, it is read in one way or refused, and never lets anybody in by itself.
func FuzzS1S31Authorization(f *testing.F) {
	for _, seed := range [][2]string{
		{"Basic eDp5", ""}, {"Bearer x", ""}, {"basic eDp5", "Basic eDp5"}, {"Basic !!!", ""}, {"Negotiate abc", ""}, {"", ""}, {"Basic", ""}, {"Bearer  " + tokenPrefix + "x", ""},
		{"Digest username=\"x\"", ""}, {"Basic eDp5, Basic eDp5", ""}, {"\tBasic eDp5", ""}, {"Basic AAAA", "Bearer x"},
	} {
		f.Add(seed[0], seed[1])
	}
	p := &Principals{Auth: AuthToken, Tokens: &Tokens{File: filepath.Join(f.TempDir(), "tokens.json")}, lookup: processOf(0, errPeer)}
	f.Fuzz(func(t *testing.T, first, second string) {
		r := httptest.NewRequest("GET", "/v2/", nil)
		for _, value := range []string{first, second} {
			if value != "" {
				r.Header.Add("Authorization", value)
			}
		}
		user, secret, shown, err := presented(r)
		if len(r.Header.Values("Authorization")) > 1 && err == nil {
			t.Errorf("two logins are read as %q", user)
		}
		if shown != (err == nil && len(r.Header) > 0) {
			t.Errorf("shown %t with %v", shown, err)
		}
		if err != nil && (secret != "" || strings.Contains(err.Error(), first) && len(first) > 12) {
			t.Errorf("the refusal repeats the login: %v", err)
		}
		if caller, err := p.identify(r); err == nil {
			t.Errorf("%q is let in by no token at all", caller.Principal)
		}
	})
}

func FuzzHtpasswd(f *testing.F) {
	f.Add([]byte("ann:$2a$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK\n# x\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		hashes, err := parseHtpasswd(raw)
		for name := range hashes {
			if err == nil && (!ValidPrincipal(name) || name == Local) {
				t.Errorf("%q is a user", name)
			}
		}
	})
}
