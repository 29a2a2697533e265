package proxy

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// leafLife is the whole validity of a leaf, of which backdate lies in the
	// past for clients whose clock is a little slow.
	leafLife = 7 * 24 * time.Hour
	backdate = 5 * time.Minute
)

// loopbackNets are in the constraints of every issuer: without any address an
// intermediate could sign for all of them (RFC 5280, section 4.2.1.10).
var loopbackNets = []*net.IPNet{
	{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
	{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
}

// Names are the host names and addresses that the issuer may sign for, beside
// loopback addresses. A host name stands for those below it too.
func (i *Issuer) Names() []string {
	names := append([]string{}, i.Intermediate.PermittedDNSDomains...)
	for _, n := range i.Intermediate.PermittedIPRanges {
		if !n.IP.IsLoopback() {
			names = append(names, n.IP.String())
		}
	}
	return names
}

// NotAfter is when the issuer ends to be valid.
func (i *Issuer) NotAfter() time.Time {
	if i.Intermediate.NotAfter.Before(i.Root.NotAfter) {
		return i.Intermediate.NotAfter
	}
	return i.Root.NotAfter
}

// Covers reports whether the issuer may sign for a host name or address.
func (i *Issuer) Covers(name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		for _, n := range i.Intermediate.PermittedIPRanges {
			if n.Contains(ip) {
				return true
			}
		}
		return false
	}
	for _, domain := range i.Intermediate.PermittedDNSDomains {
		if name == domain || strings.HasSuffix(name, "."+domain) {
			return true
		}
	}
	return false
}

// sign mints a leaf with a key of its own.
func (i *Issuer) sign(names []string, now time.Time) (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(leafLife-backdate), i.NotAfter()),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.Intermediate, &key.PublicKey, i.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, i.Intermediate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// add writes a new issuer for names. The root's key exists in this function
// alone and is never written.
func (ca *CA) add(names []string, now time.Time) error {
	rootKey, err := newKey()
	if err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	id := hex.EncodeToString(serial().Bytes()[:4])
	root := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "pushproxy root " + id}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(issuerLife), KeyUsage: x509.KeyUsageCertSign,
	}
	below := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "pushproxy intermediate " + id}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true, PermittedIPRanges: loopbackNets,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip == nil {
			below.PermittedDNSDomains = append(below.PermittedDNSDomains, name)
		} else if !ip.IsLoopback() {
			below.PermittedIPRanges = append(below.PermittedIPRanges, single(ip))
		}
	}
	if len(below.PermittedDNSDomains) == 0 {
		// Without any, every host name would be permitted.
		below.PermittedDNSDomains = []string{"localhost"}
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		return err
	}
	belowDER, err := x509.CreateCertificate(rand.Reader, below, root, &key.PublicKey, rootKey)
	if err != nil {
		return err
	}
	return ca.store(rootDER, belowDER, key)
}

// readIssuer reads an issuer and checks that its parts belong together.
func readIssuer(dir string, n int) (*Issuer, error) {
	i := &Issuer{Number: n}
	at := func(name string) string { return filepath.Join(dir, strconv.Itoa(n), name) }
	again := "; `pushproxy ca renew` starts anew, after which each client's set-up must be applied again"
	var err error
	if i.Root, err = readCertificate(at(rootFile)); err != nil {
		return nil, fmt.Errorf("%w%s", err, again)
	}
	if i.Intermediate, err = readCertificate(at(chainFile)); err != nil {
		return nil, fmt.Errorf("%w%s", err, again)
	}
	if err := i.Intermediate.CheckSignatureFrom(i.Root); err != nil {
		return nil, fmt.Errorf("%s is foreign: %s did not sign it%s", at(chainFile), at(rootFile), again)
	}
	if !i.Intermediate.PermittedDNSDomainsCritical || len(i.Intermediate.PermittedDNSDomains) == 0 || len(i.Intermediate.PermittedIPRanges) == 0 {
		return nil, fmt.Errorf("%s may sign for every name: it is not of pushproxy's making%s", at(chainFile), again)
	}
	info, err := os.Lstat(at(keyFile))
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, again)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s must be a regular file that only you can read: others may have copied it%s", at(keyFile), again)
	}
	block, err := readPEM(at(keyFile), "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, again)
	}
	key, err := x509.ParsePKCS8PrivateKey(block)
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || !ec.PublicKey.Equal(i.Intermediate.PublicKey) {
		return nil, fmt.Errorf("%s is foreign: it is not the key of %s%s", at(keyFile), at(chainFile), again)
	}
	i.key = ec
	return i, nil
}

func readCertificate(file string) (*x509.Certificate, error) {
	der, err := readPEM(file, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return cert, nil
}

func readPEM(file, kind string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no %s in PEM form", file, strings.ToLower(kind))
	}
	return block.Bytes, nil
}

// serial returns 127 random bits, never zero at the top.
func serial() *big.Int {
	var b [16]byte
	// It never fails (crypto/rand).
	_, _ = rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

func single(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
