//go:build !linux

package blobcache

// ahead does nothing here.
type ahead struct {
	dir   string
	limit int64
}

func (*ahead) lost() bool               { return false }
func (*ahead) find()                    {}
func (*ahead) reserve(int64, int) error { return nil }
func (*ahead) forget()                  {}
