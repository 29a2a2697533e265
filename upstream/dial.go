package upstream

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"pushproxy/oci"
)

// Trust says which addresses may be dialled for a name. It is judged on the
// resolved address, since a name can resolve to anything.
type Trust int

const (
	// TrustPublic is for names that an upstream chose, such as the targets of
	// redirects: addresses of the public Internet only.
	TrustPublic Trust = iota
	// TrustPrivate is for registries that the user is logged in to: private
	// networks too, but not this machine, its links or a cloud's metadata.
	TrustPrivate
	// TrustNamed is for names that the config spells out: any unicast address.
	TrustNamed
)

// prefixes parses literals; a wrong one is a bug of this file.
func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

var (
	// Networks that people run themselves: RFC 1918, RFC 4193 and the shared
	// space of RFC 6598, which private overlays such as Tailscale use.
	privateNets = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
	// Addresses inside them where clouds serve credentials: AWS, Alibaba.
	metadataNets = prefixes("fd00:ec2::/32", "100.100.100.200/32")
	// Everything else that is not the public Internet (the IANA special-purpose
	// registries). IPv6 is public only within 2000::/3.
	specialNets = prefixes("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3", "2001::/23", "2001:db8::/32", "3fff::/20")
	publicV6  = netip.MustParsePrefix("2000::/3")
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// allows reports whether addr may be dialled under t.
func (t Trust) allows(addr netip.Addr) bool {
	addr = embedded(addr.WithZone(""))
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	switch {
	case t == TrustNamed:
		return true
	case within(addr, metadataNets):
		return false
	case within(addr, privateNets):
		return t == TrustPrivate
	}
	return !within(addr, specialNets) && (addr.Is4() || publicV6.Contains(addr))
}

// embedded returns the IPv4 address that an IPv6 one stands for, so that no
// spelling of 127.0.0.1 is missed: mapped, NAT64 and 6to4.
func embedded(addr netip.Addr) netip.Addr {
	addr = addr.Unmap()
	if addr.Is4() {
		return addr
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

func within(addr netip.Addr, nets []netip.Prefix) bool {
	for _, n := range nets {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// dialer dials under a policy.
type dialer struct {
	net.Dialer
	trust func(authority string) Trust
}

// dial connects to authority, a host:port, at an address its trust allows.
func (d *dialer) dial(ctx context.Context, network, authority string) (net.Conn, error) {
	trust, one := TrustPublic, d.Dialer
	if d.trust != nil {
		trust = d.trust(strings.ToLower(authority))
	}
	// Each attempt asks name servers itself: those who share a question share its
	// loss.
	one.Resolver = &net.Resolver{}
	// Control sees each address after it was resolved and before a packet is
	// sent: there is no gap in which a name could change.
	one.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil || !trust.allows(addr.Addr()) {
			return refusedAddress(authority, address)
		}
		return nil
	}
	return one.DialContext(ctx, network, authority)
}

// refusedAddress says what was refused and how to allow it.
func refusedAddress(authority, address string) error {
	return oci.ErrDenied.With("%s is at %s, where pushproxy connects only for hosts that its config names; if that is right, add it to the config: a registry under upstreams with its url, a token server under trusted_realms",
		plain(authority), plain(address))
}
