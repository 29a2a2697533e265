package authinject

import (
	"crypto/hmac"
	"crypto/sha256"
)

// Owner returns the key under which facts learned with a credential are kept:
// HMAC-SHA256, keyed by the installation's random pepper, over the local
// principal, the canonical host, where the credential was found, its username,
// and its secrets unless a helper minted them (those rotate, and must not
// forget what they learned). An anonymous caller has an owner too, one per
// principal and host.
//
// Many clouds give every customer the same username, which is why the
// principal is part of it; without the pepper a guessed password cannot be
// verified against a stored owner.
func Owner(pepper Secret, principal, host string, c Credential) [32]byte {
	kind := "static"
	switch {
	case c.Anonymous():
		kind, c = "anonymous", Credential{}
	case c.Minted:
		kind, c.Password, c.Identity, c.Bearer = "minted", "", "", ""
	}
	mac := hmac.New(sha256.New, []byte(pepper.Reveal()))
	mac.Write(lengthPrefixed("pushproxy owner 1", kind, principal, host, c.Source, c.Username,
		c.Password.Reveal(), c.Identity.Reveal(), c.Bearer.Reveal()))
	return [32]byte(mac.Sum(nil))
}
