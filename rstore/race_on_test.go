//go:build race

package rstore

const raceEnabled = true
