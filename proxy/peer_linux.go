package proxy

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// What linux/inet_diag.h and linux/sock_diag.h call them.
const (
	netlinkSockDiag  = 4
	sockDiagByFamily = 20
	tcpEstablished   = 1
	diagHeader       = 16
	diagRequest      = diagHeader + 56
	diagAnswer       = diagHeader + 72
)

// socketOwner asks the kernel for the one socket at the other end of a
// connection and returns its owner's user id. A socket that was closed has no
// inode and is shown as root's, so only an open one counts.
func socketOwner(p pair) (int, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errPeer, err)
	}
	defer func() { _ = syscall.Close(fd) }()
	timeout := syscall.Timeval{Sec: 2}
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err != nil {
		return 0, fmt.Errorf("%w: %w", errPeer, err)
	}
	if err := syscall.Sendto(fd, diagQuestion(p), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("%w: %w", errPeer, err)
	}
	buf := make([]byte, 4096)
	n, sender, err := syscall.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errPeer, err)
	}
	if kernel, ok := sender.(*syscall.SockaddrNetlink); !ok || kernel.Pid != 0 {
		return 0, errPeer
	}
	return parseDiag(buf[:n], p)
}

// diagQuestion is a request for the socket with exactly these addresses.
func diagQuestion(p pair) []byte {
	b := make([]byte, diagRequest)
	binary.NativeEndian.PutUint32(b, diagRequest)
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], syscall.NLM_F_REQUEST)
	r := b[diagHeader:]
	r[0], r[1] = syscall.AF_INET6, syscall.IPPROTO_TCP
	if p.from.Addr().Is4() {
		// It finds sockets of IPv6 with mapped addresses, too.
		r[0] = syscall.AF_INET
	}
	binary.NativeEndian.PutUint32(r[4:], 1<<tcpEstablished)
	binary.BigEndian.PutUint16(r[8:], p.from.Port())
	binary.BigEndian.PutUint16(r[10:], p.to.Port())
	copy(r[12:28], p.from.Addr().AsSlice())
	copy(r[28:44], p.to.Addr().AsSlice())
	// Any cookie.
	binary.NativeEndian.PutUint32(r[48:], ^uint32(0))
	binary.NativeEndian.PutUint32(r[52:], ^uint32(0))
	return b
}

// parseDiag reads the kernel's answer, and believes nothing else than that.
func parseDiag(b []byte, p pair) (int, error) {
	if len(b) < diagAnswer || binary.NativeEndian.Uint16(b[4:]) != sockDiagByFamily {
		return 0, errPeer
	}
	m := b[diagHeader:]
	address := func(raw []byte) netip.Addr {
		if m[0] == syscall.AF_INET {
			return netip.AddrFrom4([4]byte(raw[:4]))
		}
		return netip.AddrFrom16([16]byte(raw[:16])).Unmap()
	}
	found := pair{
		netip.AddrPortFrom(address(m[8:24]), binary.BigEndian.Uint16(m[4:])),
		netip.AddrPortFrom(address(m[24:40]), binary.BigEndian.Uint16(m[6:])),
	}
	inode := binary.NativeEndian.Uint32(m[68:])
	if found != p || m[1] != tcpEstablished || inode == 0 {
		return 0, errPeer
	}
	return int(binary.NativeEndian.Uint32(m[64:])), nil
}

// unixPeer returns the user id that the kernel noted when a unix socket was
// connected.
func unixPeer(c net.Conn) (uid int, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errPeer
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errPeer, err)
	}
	var cred *syscall.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if controlErr != nil || err != nil || cred == nil {
		return 0, errPeer
	}
	return int(cred.Uid), nil
}
