package proxy

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newCA(t *testing.T, names ...string) *CA {
	t.Helper()
	ca, err := OpenCA(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Cover(names...); err != nil {
		t.Fatal(err)
	}
	return ca
}

// pool is what a client trusts that was given the CA's bundle.
func pool(t *testing.T, ca *CA) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(ca.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatal("the bundle holds no certificate")
	}
	return roots
}

func verify(leaf *tls.Certificate, roots *x509.CertPool, name string) error {
	below := x509.NewCertPool()
	for _, der := range leaf.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		below.AddCert(cert)
	}
	_, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: below, DNSName: name})
	return err
}

func TestALeafIsTrustedByWhoTrustsTheBundle(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "localhost", "ghcr.io", "10.1.2.3", "docker.io")
	for _, names := range [][]string{{"ghcr.io"}, {"registry-1.docker.io"}, {"10.1.2.3"}, LocalNames()} {
		leaf, err := ca.Leaf(names...)
		if err != nil {
			t.Fatalf("%v: %v", names, err)
		}
		for _, name := range names {
			if err := verify(leaf, pool(t, ca), name); err != nil {
				t.Errorf("%v for %s: %v", names, name, err)
			}
		}
		if err := verify(leaf, pool(t, ca), "other.test"); err == nil {
			t.Errorf("%v is valid for other.test", names)
		}
	}
}

func TestS34NamesThatTheCAWasNotMadeForGetNoLeaf(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "localhost", "ghcr.io")
	for _, name := range []string{"google.com", "xghcr.io", "io", "ghcr.io.evil.test", "8.8.8.8", "10.1.2.3", ""} {
		if _, err := ca.Leaf(name); !errors.Is(err, ErrNotCovered) {
			t.Errorf("%q: got %v", name, err)
		}
	}
	if _, err := ca.Leaf("localhost", "google.com"); !errors.Is(err, ErrNotCovered) {
		t.Errorf("a second name got past: %v", err)
	}
}

func TestS34AStolenIntermediateCannotSignForOtherNames(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "localhost", "ghcr.io")
	for _, name := range []string{"google.com", "8.8.8.8", "10.1.2.3", "2001:db8::1"} {
		leaf, err := ca.issuers[0].sign([]string{name}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(leaf, pool(t, ca), name); err == nil {
			t.Errorf("a leaf for %s is trusted", name)
		}
	}
}

func TestS34TheIntermediateIsBoundAndTheRootHasNoKey(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "localhost", "ghcr.io")
	i := ca.issuers[0]
	if _, ok := i.Root.PublicKey.(*ecdsa.PublicKey); !ok {
		t.Errorf("the root's key is a %T", i.Root.PublicKey)
	}
	if !i.Intermediate.MaxPathLenZero || !i.Intermediate.PermittedDNSDomainsCritical || len(i.Intermediate.ExcludedDNSDomains) > 0 {
		t.Errorf("the intermediate is not bound: %+v", i.Intermediate)
	}
	critical := false
	for _, e := range i.Intermediate.Extensions {
		critical = critical || e.Id.String() == "2.5.29.30" && e.Critical
	}
	if !critical {
		t.Error("the name constraints are not critical")
	}
	keys := 0
	err := filepath.WalkDir(ca.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "PRIVATE") {
			keys++
			if info, _ := e.Info(); info.Mode().Perm() != 0o400 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
		return err
	})
	if err != nil || keys != 1 {
		t.Errorf("%d private keys are stored, want the intermediate's alone (%v)", keys, err)
	}
}

func TestS34ALeafLivesForAWeekAndIsMadeAnewBeforeItEnds(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	synctest.Test(t, func(t *testing.T) {
		ca := &CA{dir: dir}
		if err := ca.Renew("ghcr.io"); err != nil {
			t.Fatal(err)
		}
		first := leafOf(t, ca, "ghcr.io")
		if life := first.Leaf.NotAfter.Sub(first.Leaf.NotBefore); life > 7*24*time.Hour {
			t.Errorf("a leaf is valid for %s", life)
		}
		if back := time.Since(first.Leaf.NotBefore); back != 5*time.Minute {
			t.Errorf("a leaf begins %s ago", back)
		}
		time.Sleep(5 * 24 * time.Hour)
		if leafOf(t, ca, "ghcr.io") != first {
			t.Error("a leaf that is valid for two days more was made anew")
		}
		time.Sleep(36 * time.Hour)
		if leafOf(t, ca, "ghcr.io") == first {
			t.Error("a leaf that ends within hours was used again")
		}
	})
}

func TestAnExpiredIssuerIsReplacedAndSignsNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	synctest.Test(t, func(t *testing.T) {
		ca := &CA{dir: dir}
		if err := ca.Renew("ghcr.io"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(issuerLife - 24*time.Hour)
		if leaf := leafOf(t, ca, "ghcr.io"); leaf.Leaf.NotAfter.After(ca.issuers[0].NotAfter()) {
			t.Error("a leaf outlives its issuer")
		}
		time.Sleep(25 * time.Hour)
		if _, err := ca.Leaf("ghcr.io"); !errors.Is(err, ErrNotCovered) {
			t.Errorf("an expired issuer signed: %v", err)
		}
		if added, err := ca.Cover("ghcr.io"); err != nil || len(added) != 1 {
			t.Errorf("got %v, %v", added, err)
		}
		leafOf(t, ca, "ghcr.io")
	})
}

func leafOf(t *testing.T, ca *CA, name string) *tls.Certificate {
	t.Helper()
	leaf, err := ca.Leaf(name)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestFurtherNamesLeaveWhatIsTrustedAlone(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "localhost", "ghcr.io")
	before := pool(t, ca)
	other, err := OpenCA(ca.dir)
	if err != nil {
		t.Fatal(err)
	}
	if added, err := other.Cover("ghcr.io", "quay.io", "localhost"); err != nil || len(added) != 1 || added[0] != "quay.io" {
		t.Fatalf("got %v, %v", added, err)
	}
	// The first one notices what the second one wrote.
	if err := verify(leafOf(t, ca, "quay.io"), pool(t, ca), "quay.io"); err != nil {
		t.Error(err)
	}
	if err := verify(leafOf(t, ca, "ghcr.io"), before, "ghcr.io"); err != nil {
		t.Errorf("a client of before is lost: %v", err)
	}
	if err := verify(leafOf(t, ca, "quay.io"), before, "quay.io"); err == nil {
		t.Error("the old root vouches for a new name")
	}
}

func TestRenewLeavesNothingThatWasTrusted(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "ghcr.io")
	before := pool(t, ca)
	if err := ca.Renew("ghcr.io"); err != nil {
		t.Fatal(err)
	}
	if err := verify(leafOf(t, ca, "ghcr.io"), before, "ghcr.io"); err == nil {
		t.Error("the old root is good for the new leaf")
	}
	if err := verify(leafOf(t, ca, "ghcr.io"), pool(t, ca), "ghcr.io"); err != nil {
		t.Error(err)
	}
}

func TestABundleThatWasLostIsMadeAgain(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "ghcr.io")
	if err := os.Remove(ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	if added, err := ca.Cover("ghcr.io"); err != nil || len(added) > 0 {
		t.Fatalf("got %v, %v", added, err)
	}
	if err := verify(leafOf(t, ca, "ghcr.io"), pool(t, ca), "ghcr.io"); err != nil {
		t.Error(err)
	}
}

func TestS34TheLeafCacheIsBounded(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "ghcr.io")
	first := leafOf(t, ca, "ghcr.io")
	for i := range 2 * maxLeaves {
		leafOf(t, ca, fmt.Sprintf("h%d.ghcr.io", i))
		if i%100 == 0 && leafOf(t, ca, "ghcr.io") != first {
			t.Fatal("a leaf that is in use was dropped")
		}
	}
	if n := ca.leaves.order.Len(); n != maxLeaves || len(ca.leaves.byKey) != maxLeaves {
		t.Errorf("%d leaves are kept", n)
	}
}
