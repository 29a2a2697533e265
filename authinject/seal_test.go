package authinject

import "testing"

func TestWhatIsSealedIsReadByTheSameInstallationForTheSamePurposeAlone(t *testing.T) {
	t.Parallel()
	sealer := func(pepper Secret, purpose string) func([]byte, []byte) ([]byte, error) {
		aead, err := Sealer(pepper, purpose)
		if err != nil {
			t.Fatal(err)
		}
		return func(sealed, text []byte) ([]byte, error) {
			nonce := make([]byte, aead.NonceSize())
			if sealed == nil {
				return aead.Seal(nil, nonce, text, nil), nil
			}
			return aead.Open(nil, nonce, sealed, nil)
		}
	}
	sealed, _ := sealer("pepper", "a")(nil, []byte("text"))
	if text, err := sealer("pepper", "a")(sealed, nil); err != nil || string(text) != "text" {
		t.Errorf("got %q, %v", text, err)
	}
	for name, other := range map[string]func([]byte, []byte) ([]byte, error){"another pepper": sealer("salt", "a"), "another purpose": sealer("pepper", "b")} {
		if _, err := other(sealed, nil); err == nil {
			t.Errorf("%s reads it too", name)
		}
	}
}
