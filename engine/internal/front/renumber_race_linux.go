//go:build race

package front

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ssed/engine/internal/sock"
)

// With the race detector netpoll knows a connection by the number of its descriptor
// (poll_default_linux_race.go). Its poller may still hold an event of one that a task has
// closed, and that was accepted again meanwhile: it then closed the new one without a
// word, some in a thousand beside connections that are shut down. Without the detector
// it knows them by a pointer that it does not give out again before that.

// renumbered is how many numbers were asked for.
var renumbered atomic.Uint32

// renumberWindow is after how many connections a number comes again. One pass of the
// poller accepts a few.
const renumberWindow = 1024

// renumber gives a descriptor a number that no other has had for a while. Where there is
// none it stays as it is.
func renumber(fd int) int {
	limit := sock.FileLimit()
	lowest := limit/4 + int(renumbered.Add(1))%min(renumberWindow, limit/4)
	fresh, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, lowest)
	if err != nil {
		return fd
	}
	_ = unix.Close(fd)
	return fresh
}
