//go:build !linux

package disk

// folio is only of interest on Linux.
const folio = 2 << 20

// Tail does nothing here.
type Tail struct {
	dir   string
	limit int64
}

// Lost reports that Find is not needed.
func (*Tail) Lost() bool { return false }

// Find does nothing here.
func (*Tail) Find() {}

// Reserve makes no room here, and needs none of the caller.
func (*Tail) Reserve(int64, int) (last bool, err error) { return false, nil }

// Left returns the size of a whole value log.
func (t *Tail) Left() int64 { return t.limit }

// Forget does nothing here.
func (*Tail) Forget() {}

// spare does nothing here.
type spare struct {
	dir  string
	size int64
}

func (*spare) ready(int64, bool) error { return nil }
func (*spare) remove()                 {}
func (*spare) clear()                  {}
