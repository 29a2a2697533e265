//go:build !unix

package authinject

import "os/exec"

// ownGroup does nothing: only unix ends a group of processes with one call.
func ownGroup(*exec.Cmd) {}

// killGroup does nothing: the helper itself has been ended.
func killGroup(*exec.Cmd) {}
