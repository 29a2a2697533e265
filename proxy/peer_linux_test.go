package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// connect returns both ends of a connection from the address to the listener's.
func connect(t *testing.T, network, listen, dial string) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Skipf("left out: this machine has no %s", listen)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if client, err = net.Dial("tcp", net.JoinHostPort(dial, port)); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func TestS2ThePeerOfEachFamilyIsFoundByItsSocket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, network, listen, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"IPv4 to a listener of both", "tcp", "[::]:0", "127.0.0.1"},
		{"IPv6 to a listener of both", "tcp", "[::]:0", "::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, server := connect(t, c.network, c.listen, c.dial)
			uid, err := (&Principals{}).tcpPeer(server.RemoteAddr(), server.LocalAddr())
			if err != nil || uid != os.Getuid() {
				t.Errorf("uid %d, %v", uid, err)
			}
		})
	}
}

func TestS2AnIPv6SocketWithAMappedAddressIsFound(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Skip("left out: this machine has no IPv6 sockets")
	}
	defer func() { _ = syscall.Close(fd) }()
	to := &syscall.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
	if err := syscall.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if uid, err := (&Principals{}).tcpPeer(server.RemoteAddr(), server.LocalAddr()); err != nil || uid != os.Getuid() {
		t.Errorf("uid %d, %v", uid, err)
	}
}

// The kernel shows a socket that was closed as root's.
func TestS2AClosedPeerIsNobody(t *testing.T) {
	t.Parallel()
	client, server := connect(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	// Its end has arrived when there is nothing more to read.
	if _, err := io.ReadAll(server); err != nil {
		t.Fatal(err)
	}
	if uid, err := (&Principals{}).tcpPeer(server.RemoteAddr(), server.LocalAddr()); err == nil {
		t.Errorf("a closed socket is taken for user %d's", uid)
	}
}

func TestS2AnAddressWithoutAConnectionIsNobody(t *testing.T) {
	t.Parallel()
	_, server := connect(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	from, to := server.RemoteAddr().(*net.TCPAddr).AddrPort(), server.LocalAddr().(*net.TCPAddr).AddrPort()
	for name, p := range map[string]pair{
		"another port of the peer":     {netip.AddrPortFrom(from.Addr(), 1), to},
		"another port of ours":         {from, netip.AddrPortFrom(to.Addr(), 1)},
		"another address of the peer":  {netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), from.Port()), to},
		"a listener, not a connection": {to, from},
	} {
		uid, err := socketOwner(p)
		if name == "a listener, not a connection" {
			// That is our own end.
			continue
		}
		if !errors.Is(err, errPeer) {
			t.Errorf("%s: uid %d, %v", name, uid, err)
		}
	}
	if _, err := (&Principals{}).tcpPeer(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, server.LocalAddr()); !errors.Is(err, errPeer) {
		t.Errorf("an address beyond loopback: %v", err)
	}
}

// diagReply is what the kernel says of an open socket at the pair.
func diagReply(p pair, uid uint32) []byte {
	b := make([]byte, diagAnswer)
	q := diagQuestion(p)
	copy(b, q[:diagHeader])
	m := b[diagHeader:]
	m[0], m[1] = q[diagHeader], tcpEstablished
	copy(m[4:52], q[diagHeader+8:diagRequest])
	m[64], m[68] = byte(uid), 1
	return b
}

func TestS2OnlyAnOpenSocketWithExactlyTheseAddressesCounts(t *testing.T) {
	t.Parallel()
	four := pair{netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:5001")}
	six := pair{netip.MustParseAddrPort("[::1]:40000"), netip.MustParseAddrPort("[::1]:5001")}
	for _, p := range []pair{four, six} {
		if uid, err := parseDiag(diagReply(p, 7), p); err != nil || uid != 7 {
			t.Fatalf("%v: %d, %v", p, uid, err)
		}
		for name, change := range map[string]func(m []byte){
			"closing":          func(m []byte) { m[1] = 5 },
			"listening":        func(m []byte) { m[1] = 10 },
			"without an inode": func(m []byte) { m[68] = 0 },
			"from elsewhere":   func(m []byte) { m[8] ^= 1 },
			"from a port":      func(m []byte) { m[5] ^= 1 },
			"to elsewhere":     func(m []byte) { m[24] ^= 1 },
			"to a port":        func(m []byte) { m[7] ^= 1 },
		} {
			b := diagReply(p, 7)
			change(b[diagHeader:])
			if uid, err := parseDiag(b, p); err == nil {
				t.Errorf("%v: a socket %s is taken for user %d's", p, name, uid)
			}
		}
	}
}

func TestAUnixPeerIsKnownByTheKernel(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "pp")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if uid, err := unixPeer(server); err != nil || uid != os.Getuid() {
		t.Errorf("uid %d, %v", uid, err)
	}
	if _, err := unixPeer(&net.TCPConn{}); err == nil {
		t.Error("a TCP connection has a unix peer")
	}
}

func FuzzParseDiag(f *testing.F) {
	p := pair{netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:5001")}
	f.Add(diagReply(p, 7))
	f.Add([]byte(strings.Repeat("\x00", diagAnswer)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseDiag(b, p); err == nil && (b[diagHeader+1] != tcpEstablished || len(b) < diagAnswer) {
			t.Errorf("%x is taken", b)
		}
	})
}
