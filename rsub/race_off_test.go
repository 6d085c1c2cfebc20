//go:build !race

package rsub

const raceEnabled = false
