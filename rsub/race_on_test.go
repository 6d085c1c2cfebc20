//go:build race

package rsub

const raceEnabled = true
