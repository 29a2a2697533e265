//go:build unix

package main

import "syscall"

// restrictFiles makes every file this process creates its owner's alone,
// whatever modes a library asks for.
func restrictFiles() { syscall.Umask(0o077) }
