package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// issuerLife is how long a root and its intermediate are valid.
	issuerLife = 2 * 365 * 24 * time.Hour
	// maxIssuers bounds how often the CA grows before it must be renewed.
	maxIssuers = 64
	rootFile   = "root.pem"
	chainFile  = "intermediate.pem"
	keyFile    = "intermediate.key"
	bundleFile = "ca.pem"
)

// CA is the certificate authority of one installation (trust.md S34). Its
// directory holds one numbered directory per issuer, each complete or absent:
//
//	<n>/root.pem          what clients trust; its key was discarded when it had signed
//	<n>/intermediate.pem  signed by it once, for the names of this issuer only (critical name constraints), no CA below it
//	<n>/intermediate.key  its key, readable by the owner alone
//	ca.pem                the roots of all issuers, for clients that take a file
//
// Names that are allowed later get a further issuer, so that what clients trust
// already stays valid. Several processes may use one directory. All methods may
// be called from any goroutine.
type CA struct {
	dir string

	mu      sync.Mutex
	issuers []*Issuer
	read    time.Time // modification of the directory when issuers were read
	leaves  leafCache
}

// Issuer is one root with its intermediate.
type Issuer struct {
	Number       int
	Root         *x509.Certificate
	Intermediate *x509.Certificate

	key *ecdsa.PrivateKey
}

// ErrNotCovered says that no issuer of the CA may sign for a name.
var ErrNotCovered = errors.New("no issuer of this installation's CA covers that name")

// OpenCA reads the CA in dir, which need not exist yet. It returns an error
// when something in it is damaged, foreign or readable by others; the error
// names the file.
func OpenCA(dir string) (*CA, error) {
	ca := NewCA(dir)
	if err := ca.reload(); err != nil {
		return nil, err
	}
	_, err := ca.bundled()
	return ca, err
}

// NewCA is the CA in dir, unread.
func NewCA(dir string) *CA { return &CA{dir: dir} }

// Bundle is the file that holds the roots of all issuers in PEM form.
func (ca *CA) Bundle() string { return filepath.Join(ca.dir, bundleFile) }

// Issuers returns the issuers, oldest first.
func (ca *CA) Issuers() ([]*Issuer, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	err := ca.reload()
	return slices.Clone(ca.issuers), err
}

// Cover sees to it that every name, a host without a port or an IP address, can
// be signed for: names that no valid issuer covers get a new one together. It
// returns those. A CA of more than 64 issuers is an error.
func (ca *CA) Cover(names ...string) (added []string, err error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if err := ca.reload(); err != nil {
		return nil, err
	}
	now := time.Now()
	for _, name := range names {
		if ca.issuer(name, now) == nil && !slices.Contains(added, name) {
			added = append(added, name)
		}
	}
	if len(added) == 0 {
		// A crash may have come between an issuer and the bundle.
		if whole, err := ca.bundled(); err != nil || whole {
			return nil, err
		}
		return nil, ca.bundle()
	}
	if len(ca.issuers) >= maxIssuers {
		return nil, fmt.Errorf("the CA in %s has grown %d times: start it anew with `pushproxy ca renew`, then apply the set-up of each client again", ca.dir, maxIssuers)
	}
	slices.Sort(added)
	if err := ca.add(added, now); err != nil {
		return nil, fmt.Errorf("the CA in %s: %w", ca.dir, err)
	}
	return added, ca.reload()
}

// Renew replaces all issuers by one new one for the names. What clients trust
// from before is then worth nothing.
func (ca *CA) Renew(names ...string) error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	// What cannot be read is replaced as well.
	numbers, err := issuerNumbers(ca.dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(ca.dir, 0o700); err != nil {
		return err
	}
	for _, n := range numbers {
		if err := os.RemoveAll(filepath.Join(ca.dir, strconv.Itoa(n))); err != nil {
			return err
		}
	}
	ca.issuers, ca.read, ca.leaves = nil, time.Time{}, leafCache{}
	slices.Sort(names)
	if err := ca.add(slices.Compact(names), time.Now()); err != nil {
		return fmt.Errorf("the CA in %s: %w", ca.dir, err)
	}
	return ca.reload()
}

// issuer returns the newest valid issuer that covers name.
func (ca *CA) issuer(name string, now time.Time) *Issuer {
	for _, i := range slices.Backward(ca.issuers) {
		if i.Covers(name) && now.Before(i.NotAfter()) {
			return i
		}
	}
	return nil
}

// reload reads the directory where it changed since it was read, perhaps by
// another process.
func (ca *CA) reload() error {
	info, err := os.Stat(ca.dir)
	if errors.Is(err, fs.ErrNotExist) {
		ca.issuers, ca.read = nil, time.Time{}
		return nil
	}
	if err != nil {
		return err
	}
	if info.ModTime().Equal(ca.read) {
		return nil
	}
	numbers, err := issuerNumbers(ca.dir)
	if err != nil {
		return err
	}
	var issuers []*Issuer
	for _, n := range numbers {
		i, err := readIssuer(ca.dir, n)
		if errors.Is(err, fs.ErrNotExist) && !exists(filepath.Join(ca.dir, strconv.Itoa(n))) {
			// Another process renews it; the next look sees it all.
			return nil
		}
		if err != nil {
			return err
		}
		issuers = append(issuers, i)
	}
	if !slices.EqualFunc(issuers, ca.issuers, func(a, b *Issuer) bool { return a.Intermediate.Equal(b.Intermediate) }) {
		ca.leaves = leafCache{}
	}
	ca.issuers, ca.read = issuers, info.ModTime()
	if time.Since(ca.read) < time.Second {
		// A file system's clock is coarse: a change right now could go unseen.
		ca.read = time.Time{}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// issuerNumbers lists the issuers' directories in order.
func issuerNumbers(dir string) (numbers []int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && e.IsDir() && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Leaf returns a certificate for exactly the given names, at least one, with
// its chain. It is valid for at most 7 days; at most 256 are kept. ErrNotCovered
// says that Cover was not asked for one of the names.
func (ca *CA) Leaf(names ...string) (*tls.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if err := ca.reload(); err != nil {
		return nil, err
	}
	now := time.Now()
	if leaf := ca.leaves.get(names, now); leaf != nil {
		return leaf, nil
	}
	i := ca.issuer(names[0], now)
	if i == nil || slices.ContainsFunc(names, func(n string) bool { return !i.Covers(n) }) {
		return nil, fmt.Errorf("%s: %w", names[0], ErrNotCovered)
	}
	leaf, err := i.sign(names, now)
	if err != nil {
		return nil, err
	}
	ca.leaves.put(names, leaf)
	return leaf, nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
