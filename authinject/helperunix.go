//go:build unix

package authinject

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a helper into a process group of its own, so that whatever it
// starts can be ended with it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// killGroup ends what a helper left running.
func killGroup(cmd *exec.Cmd) {
	// Mostly there is nothing left, which is an error nobody needs.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
