package oci

import (
	"errors"
	"strings"
	"testing"
)

func TestS33APanicIsAnErrorThatSaysWhereAndNotWhat(t *testing.T) {
	t.Parallel()
	err := Guarded(func() error {
		var list []string
		_ = list[len(list)]
		return nil
	})
	var fault *Fault
	if !errors.As(err, &fault) || !errors.Is(err, ErrInternal) || fault.Type != "runtime.boundsError" || !strings.Contains(fault.Where, "oci/fault_test.go:") {
		t.Errorf("got %v", err)
	}
	err = Guarded(func() error { panic("canary") })
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	if err := Guarded(func() error { return ErrDenied }); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v", err)
	}
}
