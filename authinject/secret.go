package authinject

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted stands for any secret wherever something prints or encodes it.
const redacted = "***"

// Secret is a password or token. Printed, logged or encoded in any way it is
// ***; Reveal is the only way to its text.
//
// fmt cannot call the methods of unexported struct fields, does not where a verb
// does not fit the type around it, and encoding/json does not for map keys: keep
// a Secret two pointers away from anything that might be printed, and never make
// it a key.
type Secret string

// Reveal returns the text. Call it only where it goes on the wire or into a
// hash.
func (s Secret) Reveal() string { return string(s) }

// String returns ***.
func (s Secret) String() string { return redacted }

// GoString returns ***.
func (s Secret) GoString() string { return redacted }

// Format writes *** whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) {
	// A formatter has no way to return an error.
	_, _ = io.WriteString(f, redacted)
}

// MarshalText returns ***.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "***".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue returns ***.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
