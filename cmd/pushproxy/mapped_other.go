//go:build !linux

package main

// backMappings does nothing here: only Linux prepares maps.
func backMappings() {}
