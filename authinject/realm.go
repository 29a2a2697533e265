package authinject

import (
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"pushproxy/oci"
)

// originOf returns scheme://host:port of u, the port always written, or "" when
// u is not an absolute http or https address. Two addresses belong to the same
// origin only when these are equal: a trailing dot makes another one.
func originOf(u *url.URL) string {
	port := u.Port()
	switch u.Scheme {
	case "https":
		if port == "" {
			port = "443"
		}
	case "http":
		if port == "" {
			port = "80"
		}
	default:
		return ""
	}
	if u.Hostname() == "" {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return u.Scheme + "://" + host + ":" + port
}

// realmPolicy decides which token server of a registry may see its credential.
type realmPolicy struct {
	host    string   // canonical host of the registry, for messages
	origin  *url.URL // where the challenge came from: a configured origin
	trusted []string // trusted_realms of the upstream: host or host:port
}

// check returns the address of the token server that a challenge names, or an
// oci.ErrDenied that says why it is refused. Accepted is: over https (http only
// where the registry itself is configured so), the registry's own host and
// port, a host of the same registrable domain, or a trusted one. An IP literal
// or localhost must be the registry's own address or a trusted one.
func (p realmPolicy) check(realm string) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil {
		return nil, p.refuse("an address that cannot be read", "")
	}
	if u.Scheme == "" {
		// Some servers name their token end-point by its path.
		u = p.origin.ResolveReference(u)
	}
	u.Fragment = ""
	host := strings.ToLower(u.Hostname())
	shown := u.Host
	switch {
	case u.User != nil:
		return nil, p.refuse("an address with user information in it", "")
	case u.Opaque != "" || originOf(u) == "" || !validRealmHost(host):
		return nil, p.refuse("an address that is not an http address of a plain host name", "")
	case u.Scheme == "http" && p.origin.Scheme != "http":
		return nil, p.refuse(shown+" over plain http", "")
	case originOf(u) == originOf(p.origin), p.trusts(u, host):
		return u, nil
	case isLiteral(host):
		return nil, p.refuse(shown, shown)
	case sameSite(host, strings.ToLower(p.origin.Hostname())):
		return u, nil
	}
	return nil, p.refuse(shown, shown)
}

// trusts reports whether the user listed the token server. An entry without a
// port stands for the scheme's own.
func (p realmPolicy) trusts(u *url.URL, host string) bool {
	for _, entry := range p.trusted {
		canonical, ok := canonicalAuthority(entry)
		if !ok {
			continue
		}
		if originOf(&url.URL{Scheme: u.Scheme, Host: canonical}) == originOf(u) {
			return true
		}
	}
	return false
}

// refuse makes the error for a realm that the credential is kept from. what
// describes the realm; listing is the entry that would allow it, if any does.
func (p realmPolicy) refuse(what, listing string) error {
	remedy := "ask the registry's operator to correct its WWW-Authenticate header"
	if listing != "" {
		remedy = "if you trust it, add trusted_realms: [" + quoted(listing) + "] to the upstream " + p.host
	}
	return oci.ErrDenied.With("registry %s sends its logins to the token server %s, which does not belong to it; nothing was sent there: %s",
		p.host, quoted(what), remedy)
}

// validRealmHost reports whether host, in lower case, is a plain host name or
// an address: no trailing dot, no escapes, no zone.
func validRealmHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}
	return validHostname(host)
}

// isLiteral reports whether host stands for an address without asking DNS, or
// in one of the old numeric spellings that resolvers still accept.
func isLiteral(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	numeric := strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x")
	return numeric || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// sameSite reports whether two names have the same registrable domain by the
// public suffix list. Names that are a public suffix themselves have none.
func sameSite(a, b string) bool {
	siteA, errA := publicsuffix.EffectiveTLDPlusOne(a)
	siteB, errB := publicsuffix.EffectiveTLDPlusOne(b)
	return errA == nil && errB == nil && siteA == siteB
}
