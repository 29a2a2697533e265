//go:build !linux

package proxy

import "net"

// socketOwner cannot tell here: callers need a token.
func socketOwner(pair) (int, error) { return 0, errPeer }

func unixPeer(net.Conn) (int, error) { return 0, errPeer }
