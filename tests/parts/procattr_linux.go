package parts

import "syscall"

// A child gets its own process group, so that its children end with it, and dies with us even if we are killed.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
