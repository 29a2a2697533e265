//go:build race

package tests

// raceEnabled: the program under test gets the race detector exactly when the tests have it.
const raceEnabled = true
