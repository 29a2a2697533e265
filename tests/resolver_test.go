package tests

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// resolver is a DNS server that says of each name what a test wants, and writes down what it was asked. The answers of
// a name are given one after the other, the last one again and again, and none may be kept (TTL 0).
type resolver struct {
	address string // a loopback address; the port is 53

	mu    sync.Mutex
	names map[string][][]netip.Addr
	asked []string
}

func startResolver(t *testing.T) *resolver {
	t.Helper()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		leftOut(t, "only root on Linux can give a program a DNS server of its own")
	}
	r := &resolver{address: someLoopback(), names: map[string][][]netip.Addr{}}
	conn, err := net.ListenPacket("udp", net.JoinHostPort(r.address, "53"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer, err := r.answer(buf[:n]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return r
}

// someLoopback is an address of this machine that hardly anything else has.
func someLoopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 10+rand.IntN(200), rand.IntN(250), 1+rand.IntN(250))
}

// set says what a name resolves to, one list per question and kind.
func (r *resolver) set(name string, answers ...[]netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names[name] = answers
}

// queries are the names that were asked for.
func (r *resolver) queries() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

func (r *resolver) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, fmt.Errorf("a question that is none: %w", err)
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, name)
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	answers, known := r.names[name]
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
	if len(answers) > 0 {
		for _, addr := range answers[0] {
			switch {
			case q.Type == dnsmessage.TypeA && addr.Is4():
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}})
			case q.Type == dnsmessage.TypeAAAA && addr.Is6():
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
			}
		}
		// Both kinds are asked for at once; the next answer is for the next time.
		if q.Type == dnsmessage.TypeA && len(answers) > 1 {
			r.names[name] = answers[1:]
		}
	}
	return m.Pack()
}

// asks makes the rig's program resolve names by this server alone, in a mount namespace of its own.
func (r *resolver) asks(t *testing.T, g *rig) {
	t.Helper()
	unshare := system(t, "unshare")
	conf := writeFile(t, filepath.Join(g.home, "resolv.conf"), "nameserver "+r.address+"\noptions timeout:1 attempts:1\n", 0o644)
	g.program = writeFile(t, filepath.Join(g.home, "with-resolver"), fmt.Sprintf(
		"#!/bin/sh\nexec %s --mount --propagation private /bin/sh -c 'mount --bind %s /etc/resolv.conf && exec \"$0\" \"$@\"' %s \"$@\"\n", unshare, conf, g.program), 0o755)
	g.env = append(g.env, "GODEBUG=netdns=go")
}

// doorbell counts the connections that are made to an address, and says nothing.
type doorbell struct {
	net.Listener
	mu    sync.Mutex
	rings int
}

func startDoorbell(t *testing.T, address string) *doorbell {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	d := &doorbell{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			d.mu.Lock()
			d.rings++
			d.mu.Unlock()
		}
	}()
	return d
}

func (d *doorbell) rang() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rings
}

func (d *doorbell) port() string {
	_, port, _ := net.SplitHostPort(d.Addr().String())
	return port
}
