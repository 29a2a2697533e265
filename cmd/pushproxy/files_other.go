//go:build !unix

package main

// restrictFiles does nothing where files have no such modes; the user's data
// directory is private to the user there.
func restrictFiles() {}
