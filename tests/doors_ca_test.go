package tests

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// verifiers are the programs of others that must agree with what the CA promises. Each returns nil when it trusts the
// server at 127.0.0.1:port under name.
func verifiers(t *testing.T) map[string]func(t *testing.T, caFile, name string, port int) error {
	t.Helper()
	try := func(t *testing.T, program string, args ...string) error {
		out, errs, err := command{env: cleanEnv(t.TempDir()), most: 20 * time.Second}.try(t, program, args...)
		if err != nil {
			return fmt.Errorf("%w\n%s\n%s", err, out, errs)
		}
		return nil
	}
	return map[string]func(*testing.T, string, string, int) error{
		"OpenSSL": func(t *testing.T, caFile, name string, port int) error {
			args := []string{"s_client", "-connect", fmt.Sprintf("127.0.0.1:%d", port), "-CAfile", caFile, "-verify_return_error", "-brief"}
			if net.ParseIP(name) != nil {
				return try(t, system(t, "openssl"), append(args, "-verify_ip", name)...)
			}
			return try(t, system(t, "openssl"), append(args, "-verify_hostname", name, "-servername", name)...)
		},
		"curl": func(t *testing.T, caFile, name string, port int) error {
			return try(t, system(t, "curl"), "-sS", "--cacert", caFile, "--connect-to", fmt.Sprintf("::127.0.0.1:%d", port), fmt.Sprintf("https://%s/", name))
		},
		"GnuTLS": func(t *testing.T, caFile, name string, port int) error {
			return try(t, system(t, "gnutls-cli"), "--x509cafile", caFile, "--verify-hostname", name, "--sni-hostname", name, "--port", fmt.Sprint(port), "127.0.0.1")
		},
		"Go": func(t *testing.T, caFile, name string, port int) error {
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM([]byte(readFile(t, caFile)))
			c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{RootCAs: pool, ServerName: name})
			if err == nil {
				_ = c.Close()
			}
			return err
		},
	}
}

func TestS34VerifiersTrustTheCAForItsOwnNamesAndNothingThatAThiefSigns(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	for program, trusts := range verifiers(t) {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			// The registry door's own certificate, and one for the upstream's name.
			if err := trusts(t, d.caFile(), "localhost", d.Port); err != nil {
				t.Errorf("localhost is not trusted: %v", err)
			}
			for name, fine := range map[string]bool{upstreamName: true, "google.com": false, "8.8.8.8": false, "x" + upstreamName: false} {
				err := trusts(t, d.caFile(), name, serveForged(t, d, name))
				if (err == nil) != fine {
					t.Errorf("%s signed with the stolen intermediate: %v", name, err)
				}
			}
		})
	}
}

// serveForged is what a thief of the intermediate's key can do: it serves TLS under any name, on a port of 127.0.0.1.
func serveForged(t *testing.T, d *doors, name string) int {
	t.Helper()
	dir := filepath.Join(d.config.DataDir, "ca", "1")
	block := func(file string) []byte {
		b, _ := pem.Decode([]byte(readFile(t, filepath.Join(dir, file))))
		if b == nil {
			t.Fatalf("%s is not PEM", file)
		}
		return b.Bytes
	}
	below, err := x509.ParseCertificate(block("intermediate.pem"))
	if err != nil {
		t.Fatal(err)
	}
	by, err := x509.ParsePKCS8PrivateKey(block("intermediate.key"))
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{name}
	}
	der := sign(t, leaf, below, key, by.(*ecdsa.PrivateKey))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Rand: rand.Reader, Certificates: []tls.Certificate{{Certificate: [][]byte{der, below.Raw}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "served") }),
		ErrorLog: log.New(io.Discard, "", 0), // that handshakes fail is what is asked for
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestCurlGoesThroughATunnel(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	for _, version := range []string{"--http1.1", "--http2"} {
		out := command{env: cleanEnv(d.home)}.run(t, system(t, "curl"), "-sS", version, "--proxy", "http://"+d.proxy, "--cacert", d.caFile(), "-w", " %{http_code} %{http_version}",
			"https://"+upstreamName+"/v2/")
		if !strings.HasPrefix(out, "{} 200 ") {
			t.Errorf("curl %s got %q", version, out)
		}
	}
}

func TestTheCommandCaShowsAndRenews(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	stdout, stderr, err := d.run(t, "ca", "show")
	if err != nil || !strings.Contains(stdout, upstreamName) || !strings.Contains(stdout, d.caFile()) {
		t.Fatalf("ca show: %v\n%s\n%s", err, stdout, stderr)
	}
	before := d.inTunnel(t)
	if stdout, _, err := d.run(t, "ca", "show", "--pem"); err != nil || stdout != readFile(t, d.caFile()) {
		t.Errorf("ca show --pem: %v\n%s", err, stdout)
	}
	before.want(t, http.StatusOK, "GET", "/v2/", nil)
	if _, stderr, err := d.run(t, "ca", "renew"); err != nil {
		t.Fatalf("ca renew: %v\n%s", err, stderr)
	}
	before.client.CloseIdleConnections()
	if _, err := before.send("GET", "/v2/", nil); err == nil {
		t.Error("a client that trusts the old CA is served")
	}
	// The running program took the new one without a restart.
	d.inTunnel(t).want(t, http.StatusOK, "GET", "/v2/", nil)
}

func TestADamagedCAStopsTheStartAndRenewMendsIt(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	d.Stop()
	key := filepath.Join(d.config.DataDir, "ca", "1", "intermediate.key")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	writeFile(t, key, "no key\n", 0o600)
	_, stderr, err := d.run(t, "serve")
	if err == nil || !strings.Contains(stderr, key) || !strings.Contains(stderr, "pushproxy ca renew") {
		t.Errorf("serve: %v\n%s", err, stderr)
	}
	if _, stderr, err := d.run(t, "ca", "renew"); err != nil {
		t.Fatalf("ca renew: %v\n%s", err, stderr)
	}
	d.start(t)
	d.inTunnel(t).want(t, http.StatusOK, "GET", "/v2/", nil)
}
