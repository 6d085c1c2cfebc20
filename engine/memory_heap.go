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
	for len(memory) > 0 { // byte by byte, the race detector would take seconds for a large ring
		memory = memory[copy(memory, spoiled[:]):]
	}
}

var spoiled = func() (b [4 << 10]byte) {
	for i := range b {
		b[i] = 0xDB
	}
	return b
}()
