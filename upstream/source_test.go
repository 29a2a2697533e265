package upstream

import (
	"errors"
	"io"
	"testing"
)

func TestOnlyTheNewestSectionReads(t *testing.T) {
	t.Parallel()
	b, _ := blobOf(100)
	opened := 0
	s := &source{open: func() (io.ReadCloser, error) { opened++; return opener(b)() }}
	defer s.close()
	first, err := s.section(0, 60)
	noError(t, err)
	if _, err := io.ReadFull(first, make([]byte, 40)); err != nil {
		t.Fatal(err)
	}
	second, err := s.section(40, 60)
	noError(t, err)
	if n, err := first.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errSuperseded) {
		t.Errorf("the older section: %d, %v; want errSuperseded", n, err)
	}
	got, err := io.ReadAll(second)
	if err != nil || string(got) != string(b[40:]) || opened != 1 {
		t.Errorf("the newer section: %d bytes, %v, opened %d times", len(got), err, opened)
	}
	for _, off := range []int64{70, 10, 0} {
		part, err := s.section(off, -1)
		noError(t, err)
		if got, err := io.ReadAll(part); err != nil || string(got) != string(b[off:]) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	if pos, err := s.state(); pos != 100 || err != nil {
		t.Errorf("state %d, %v", pos, err)
	}
}
