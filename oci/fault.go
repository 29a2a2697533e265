package oci

import (
	"fmt"
	"path"
	"runtime"
	"strings"
)

// Fault is a panic that was caught: of what type, and where. The value itself
// is not kept, since it could hold anything.
type Fault struct {
	Type  string // Go's name of it
	Where string // the innermost calls, "file.go:line" each, newest first
}

// Error says what is known of the panic.
func (f *Fault) Error() string { return fmt.Sprintf("a panic of type %s at %s", f.Type, f.Where) }

// faultCalls is how many calls a Fault names.
const faultCalls = 12

// Guarded returns work's error. A panic in it becomes ErrInternal because of a
// *Fault: in a goroutine of its own it would end the whole program.
func Guarded(work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = ErrInternal.Because(&Fault{Type: fmt.Sprintf("%T", p), Where: callers()})
		}
	}()
	return work()
}

// callers names the calls that led to a panic, while it is being recovered.
func callers() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var calls []string
	for more := true; more && len(calls) < faultCalls; {
		var f runtime.Frame
		if f, more = frames.Next(); !strings.HasPrefix(f.Function, "runtime.") {
			calls = append(calls, fmt.Sprintf("%s/%s:%d", path.Base(path.Dir(f.File)), path.Base(f.File), f.Line))
		}
	}
	return strings.Join(calls, " ")
}
