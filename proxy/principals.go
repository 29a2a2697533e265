package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"pushproxy/authinject"
	"pushproxy/oci"
)

// Local is the principal of whoever runs the program: processes with its own
// user id, root where that can only be the same person, and callers with an
// unrestricted token. It alone has the credentials of that person.
const Local = "local"

// Auth is a way to find out who calls: the key auth of the configuration.
type Auth string

// The ways, as design section 4 has them.
const (
	// AuthAuto takes processes of our own user by their socket, others by token.
	AuthAuto Auth = "auto"
	// AuthToken takes tokens alone.
	AuthToken Auth = "token"
	// AuthHtpasswd takes the accounts of a file, and tokens.
	AuthHtpasswd Auth = "htpasswd"
	// AuthPassthrough takes any user name and password: they are the identity, and
	// what upstreams get.
	AuthPassthrough Auth = "passthrough"
	// AuthNone takes everybody for Local.
	AuthNone Auth = "none"
)

// Caller is who sent a request, and what it may do at most.
type Caller struct {
	// Principal is whose uploads, grants and sources the request sees. Of a
	// restricted token it is the token's own, so that it sees nothing of what its
	// maker has: see Base.
	Principal string
	// Token is the id of the token that was shown, or empty.
	Token string
	// User is the name that a client wrote, for the audit log; it proves nothing.
	User string
	// Scopes must all allow a request; none allows everything.
	Scopes []Scope
	// Given is the client's own credential, with AuthPassthrough only.
	Given authinject.Credential
}

// separator ends the part of a principal's name that says whose credentials it
// acts with; no configured name has it.
const separator = "#"

// given is the base of the principals of AuthPassthrough.
const given = "given"

// Base returns the principal whose credential sources a principal acts with:
// itself, except for a restricted token, which acts with its maker's.
func Base(principal string) string {
	base, _, _ := strings.Cut(principal, separator)
	return base
}

// Reaches reports whether the caller may do anything at all with an upstream.
func (c Caller) Reaches(host string) bool {
	for _, s := range c.Scopes {
		if !s.reaches(host) {
			return false
		}
	}
	return true
}

type callerKey struct{}

// CallerFrom returns who sent the request that a context belongs to; a context
// that belongs to none is Local's own.
func CallerFrom(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return *c
	}
	return Caller{Principal: Local}
}

// Principals finds out who calls. Set the fields before the first request; the
// zero value refuses everybody.
type Principals struct {
	Auth Auth
	// Tokens are the tokens there are; nil: none.
	Tokens *Tokens
	// Accounts are those of AuthHtpasswd.
	Accounts *Accounts
	// UID is the user id whose processes are Local with AuthAuto.
	UID int
	// RootIsLocal says that root's processes (dockerd) are Local, too: the machine
	// has one person.
	RootIsLocal bool
	// Secret keys the names of AuthPassthrough's principals.
	Secret authinject.Secret
	// Allow limits configured principals by name.
	Allow map[string]Scope

	once   sync.Once
	wrong  *failures
	lookup func(pair) (int, error) // nil: the system's
}

// errLogin is matched by refusals that a login would change.
var errLogin = errors.New("no valid login")

func (p *Principals) failures() *failures {
	p.once.Do(func() { p.wrong = newFailures() })
	return p.wrong
}

// identify returns who sent the request, or an error that matches errLogin.
func (p *Principals) identify(r *http.Request) (Caller, error) {
	if p == nil {
		return Caller{}, unauthorized("pushproxy takes no requests: no way to identify callers is configured")
	}
	if p.Auth == AuthNone {
		return Caller{Principal: Local}, nil
	}
	user, secret, shown, err := presented(r)
	switch {
	case err != nil:
		return Caller{}, err
	case shown && p.Auth == AuthPassthrough:
		return p.passthrough(user, secret)
	case shown:
		return p.login(r, user, secret)
	case p.Auth == AuthAuto && p.ours(r):
		return Caller{Principal: Local}, nil
	}
	return Caller{}, unauthorized("pushproxy does not know you: log in with a token (pushproxy token create, then docker login or podman login with any user name and the token as password)")
}

// presented reads the request's Authorization. More than one, or one of another
// kind than Basic and Bearer, is refused.
func presented(r *http.Request) (user string, secret authinject.Secret, shown bool, err error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", "", false, nil
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	if name, password, ok := r.BasicAuth(); ok && len(values) == 1 {
		return name, authinject.Secret(password), true, nil
	}
	if strings.EqualFold(scheme, "Bearer") && len(values) == 1 {
		return "", authinject.Secret(strings.TrimSpace(rest)), true, nil
	}
	return "", "", false, unauthorized("the Authorization header cannot be read; send one, with Basic and a token as password")
}

// login checks a token or, with AuthHtpasswd, a password.
func (p *Principals) login(r *http.Request, user string, secret authinject.Secret) (Caller, error) {
	peer := p.peerName(r)
	if p.Tokens != nil && strings.HasPrefix(secret.Reveal(), tokenPrefix) {
		t, ok, err := p.Tokens.verify(secret)
		if err != nil {
			return Caller{}, err
		}
		if ok {
			return p.limited(t.caller(user)), nil
		}
	}
	wrong := unauthorized("the user name or token is not valid here: it was mistyped, revoked or has expired; log in again with a new one (pushproxy login)")
	if p.Auth != AuthHtpasswd || p.Accounts == nil {
		return Caller{}, p.failures().spent(peer, wrong)
	}
	ok, err := p.Accounts.verify(r.Context(), user, secret, func() error { return p.failures().take(peer) })
	if err != nil {
		return Caller{}, err
	}
	if !ok {
		return Caller{}, wrong
	}
	return p.limited(Caller{Principal: user, User: user}), nil
}

// limited adds what the configuration allows the caller's principal.
func (p *Principals) limited(c Caller) Caller {
	if s, ok := p.Allow[Base(c.Principal)]; ok {
		c.Scopes = append(c.Scopes, s)
	}
	return c
}

// passthrough makes a principal of a credential that nobody has checked: one
// that can be had with exactly this user name and password, so that it inherits
// nothing from anybody who does not know them.
func (p *Principals) passthrough(user string, secret authinject.Secret) (Caller, error) {
	if user == "" || secret == "" {
		return Caller{}, unauthorized("the user name or password is empty; log in with those of the upstream registry")
	}
	mac := hmac.New(sha256.New, []byte(p.Secret.Reveal()))
	for _, field := range []string{"pushproxy given 1", user, secret.Reveal()} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
		mac.Write([]byte(field))
	}
	return Caller{
		Principal: given + separator + hex.EncodeToString(mac.Sum(nil)[:16]), User: user,
		Given: authinject.Credential{Username: user, Password: secret, Source: "the client's own login"},
	}, nil
}

// ours reports whether the request comes from a process of our own user, on
// this machine, that still has its end of the connection. Whatever is uncertain
// is no (trust.md S2).
func (p *Principals) ours(r *http.Request) bool {
	uid, err := p.uid(r)
	if err != nil {
		return false
	}
	return uid == p.UID || (uid == 0 && p.RootIsLocal)
}

// peerName groups callers for the limit on wrong logins: by user where this
// machine knows it, else by address.
func (p *Principals) peerName(r *http.Request) string {
	if uid, err := p.uid(r); err == nil {
		return userName(uid)
	}
	return addressName(r.RemoteAddr)
}

func userName(uid int) string { return "uid " + strconv.Itoa(uid) }

// addressName is an address without its port, which a peer has many of.
func addressName(address string) string {
	host, _, _ := strings.Cut(address, "%")
	if i := strings.LastIndexByte(host, ':'); i > 0 {
		host = host[:i]
	}
	return host
}

// unauthorized is a refusal at which clients ask for a login.
func unauthorized(message string) error {
	return oci.ErrUnauthorized.With("%s", message).Because(errLogin)
}

// tooMany is a refusal of a guess that was not looked at.
func tooMany(wait time.Duration) error {
	e := *oci.ErrTooManyRequests.With("too many wrong logins from here; wait, and check the token or password")
	e.After = wait
	return e.Because(errLogin)
}
