package upstream

import (
	"context"
	"net"
	"time"
)

// DialPublic connects to authority, a host:port, at an address of the public
// Internet, judged when it has been resolved (TrustPublic). Any other address is
// oci.ErrDenied.
func DialPublic(ctx context.Context, authority string) (net.Conn, error) {
	d := &dialer{Dialer: net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}}
	return d.dial(ctx, "tcp", authority)
}
