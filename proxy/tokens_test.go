package proxy

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/authinject"
)

func TestATokenIsValidUntilItExpiresOrIsRevoked(t *testing.T) {
	t.Parallel()
	store := tokensIn(t)
	synctest.Test(t, func(t *testing.T) {
		ever, a, err := store.Create("ever", Local, 0, Scope{})
		if err != nil {
			t.Fatal(err)
		}
		_, b, err := store.Create("hour", "bob", time.Hour, Scope{})
		if err != nil {
			t.Fatal(err)
		}
		valid := func(s authinject.Secret) bool {
			_, ok, err := store.verify(s)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if !valid(a) || !valid(b) || valid(a+"x") || valid("") || valid(authinject.Secret(ever.Hash)) {
			t.Error("tokens are confused")
		}
		time.Sleep(time.Hour)
		if !valid(a) || valid(b) {
			t.Error("a token's time is not kept")
		}
		// Another process, such as a command.
		if _, err := (&Tokens{File: store.File}).Revoke(ever.ID); err != nil {
			t.Fatal(err)
		}
		if valid(a) {
			t.Error("a revoked token is valid")
		}
		if _, err := store.Revoke("ever"); !errors.Is(err, ErrToken) {
			t.Errorf("a token can be revoked twice: %v", err)
		}
	})
}

func TestS16TheFileOfTokensHoldsNone(t *testing.T) {
	t.Parallel()
	store := tokensIn(t)
	_, secret, err := store.Create("one", Local, 0, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(store.File)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), strings.TrimPrefix(secret.Reveal(), tokenPrefix)) {
		t.Error("the file holds the token")
	}
	if len(secret) < len(tokenPrefix)+43 {
		t.Errorf("a token of %d characters has less than 256 bits", len(secret))
	}
	info, err := os.Stat(store.File)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestS17AFileOfTokensThatOthersCanReadIsNotUsed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(file string) error{
		"readable": func(file string) error { return os.Chmod(file, 0o644) },
		"writable": func(file string) error { return os.Chmod(file, 0o620) },
		"a link": func(file string) error {
			return errors.Join(os.Rename(file, file+"2"), os.Symlink(file+"2", file))
		},
		"damaged": func(file string) error { return os.WriteFile(file, []byte("["), 0o600) },
	} {
		store := tokensIn(t)
		_, secret, err := store.Create("one", Local, 0, Scope{})
		if err != nil {
			t.Fatal(err)
		}
		if err := change(store.File); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := (&Tokens{File: store.File}).verify(secret); ok || err == nil {
			t.Errorf("a file that is %s is used", name)
		}
	}
}

func TestBadTokensCannotBeMade(t *testing.T) {
	t.Parallel()
	store := tokensIn(t)
	if _, _, err := store.Create("one", Local, 0, Scope{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, principal string
		scope           Scope
	}{
		{"one", Local, Scope{}}, {"", Local, Scope{}}, {"a b", Local, Scope{}}, {"two", "", Scope{}}, {"two", "a#b", Scope{}}, {"two", given, Scope{}},
		{"two", Local, Scope{Verbs: []Verb{"all"}}},
	} {
		if _, _, err := store.Create(c.name, c.principal, 0, c.scope); !errors.Is(err, ErrToken) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestTokensMadeAtOnceAreAllThere(t *testing.T) {
	t.Parallel()
	store := tokensIn(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, _, err := (&Tokens{File: store.File}).Create(string(rune('a'+i)), Local, 0, Scope{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if list, err := store.List(); err != nil || len(list) != 20 {
		t.Errorf("%d tokens, %v", len(list), err)
	}
}
