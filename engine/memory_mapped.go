//go:build linux && !race

package engine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// takeMemory maps n bytes of zeros, aligned to a page. It panics when the system has none,
// as the Go heap does. The other version, on the heap, is for the race detector, which
// does not see mapped memory.
func takeMemory(n int) []byte {
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Errorf("engine: no memory for the ring: mmap of %d bytes: %w", n, err))
	}
	return memory
}

// giveMemory takes the whole of what takeMemory returned. Who looks at it afterwards
// crashes, and reads nobody else's data.
func giveMemory(memory []byte) { _ = unix.Munmap(memory) } // fails only for what is not mapped
