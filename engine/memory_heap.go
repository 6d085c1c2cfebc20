//go:build !linux || race

package engine

import "unsafe"

// takeMemory makes n bytes of zeros, aligned for entries.
func takeMemory(n int) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n)
}

// giveMemory spoils the memory for who still looks at it, so that tests find it: it is
// neither a frame nor UTF-8, and the race detector sees the write.
func giveMemory(memory []byte) {
	for i := range memory {
		memory[i] = 0xDB
	}
}
