package main

import (
	"fmt"
	"syscall"
)

// keepSecrets leaves no core files, and lets no other process of this user read
// the memory of this one, which holds credentials.
func keepSecrets() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("core files cannot be switched off: %w", err)
	}
	const prSetDumpable = 4
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); errno != 0 {
		return fmt.Errorf("the process cannot be made undumpable: %w", errno)
	}
	return nil
}
