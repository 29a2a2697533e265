package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// store puts the files of an issuer in place by one rename, then the bundle.
func (ca *CA) store(root, below []byte, key *ecdsa.PrivateKey) error {
	if err := os.MkdirAll(ca.dir, 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(ca.dir, "new-")
	if err != nil {
		return err
	}
	// Gone when all went well.
	defer os.RemoveAll(temp)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
		mode       os.FileMode
	}{{rootFile, "CERTIFICATE", root, 0o444}, {chainFile, "CERTIFICATE", below, 0o444}, {keyFile, "PRIVATE KEY", keyDER, 0o400}} {
		text := pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})
		if err := writeSynced(filepath.Join(temp, f.name), text, f.mode); err != nil {
			return err
		}
	}
	// Another process may take the number first: a directory that is not empty is
	// never renamed over.
	for range maxIssuers {
		numbers, err := issuerNumbers(ca.dir)
		if err != nil {
			return err
		}
		next := 1
		if len(numbers) > 0 {
			next = numbers[len(numbers)-1] + 1
		}
		if err = os.Rename(temp, filepath.Join(ca.dir, strconv.Itoa(next))); err == nil {
			return ca.bundle()
		}
		if !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return errors.New("other processes keep adding to it")
}

// writeSynced writes a file that is on the disk before it is renamed into place: an
// empty one after a power cut would keep the program from starting.
func writeSynced(name string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// bundle writes the roots of all issuers into one file.
func (ca *CA) bundle() error {
	numbers, err := issuerNumbers(ca.dir)
	if err != nil {
		return err
	}
	var all []byte
	for _, n := range numbers {
		text, err := os.ReadFile(filepath.Join(ca.dir, strconv.Itoa(n), rootFile))
		if err != nil {
			return err
		}
		all = append(all, text...)
	}
	temp := filepath.Join(ca.dir, bundleFile+".new")
	if err := writeSynced(temp, all, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, ca.Bundle())
}

// bundled reports whether the bundle holds the roots of all issuers. One that
// holds anything else is an error: clients would trust it.
func (ca *CA) bundled() (whole bool, err error) {
	text, err := os.ReadFile(ca.Bundle())
	if errors.Is(err, fs.ErrNotExist) {
		return len(ca.issuers) == 0, nil
	}
	if err != nil {
		return false, err
	}
	held := 0
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false, ca.foreignBundle()
		}
		known := false
		for _, i := range ca.issuers {
			known = known || bytes.Equal(i.Root.Raw, block.Bytes)
		}
		if !known {
			return false, ca.foreignBundle()
		}
		held++
	}
	return held >= len(ca.issuers), nil
}

func (ca *CA) foreignBundle() error {
	return fmt.Errorf("%s holds something else than the roots of this CA: delete it, and it is made again; or `pushproxy ca renew` starts anew", ca.Bundle())
}
