//go:build !linux

package blobcache

// ahead does nothing here.
type ahead struct {
	dir   string
	limit int64
}

func (*ahead) lost() bool                       { return false }
func (*ahead) find()                            {}
func (*ahead) reserve(int64, int) (bool, error) { return false, nil }
func (a *ahead) room() int64                    { return a.limit }
func (*ahead) forget()                          {}

// spare does nothing here.
type spare struct {
	dir  string
	size int64
}

func (*spare) ready(int64, bool) error { return nil }
func (*spare) remove()                 {}

func clearSpares(string) {}
