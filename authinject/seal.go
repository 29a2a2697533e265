package authinject

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// Sealer returns what protects secrets of upstreams that have to be stored, such
// as signed locations. Its key follows from the installation's pepper and the
// purpose: without the pepper nothing stored can be read.
func Sealer(pepper Secret, purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(pepper.Reveal()), nil, "pushproxy seal 1 "+purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("key of the installation: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of the installation: %w", err)
	}
	return cipher.NewGCM(block)
}
