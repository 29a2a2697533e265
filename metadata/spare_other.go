//go:build !linux

package metadata

// spare does nothing here.
type spare struct{ dir string }

func (*spare) ready(n, large int64) error { return nil }
func (*spare) remove()                    {}

func clearSpares(string) {}
