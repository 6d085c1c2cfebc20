//go:build linux

package swarm

import "golang.org/x/sys/unix"

const (
	boosted  = -15 // niceness of a thread that measures closely
	boost    = 10  // what it gets in real-time priority: room for a server above the rest of the load
	yielding = 10  // of one that everybody else comes before
)

// Boost puts the calling thread, which must be locked to its goroutine, before
// others of the host. Without the right to do so nothing changes. The function it
// returns undoes that.
func Boost() (restore func()) {
	if attr, ok := realTime(0); ok {
		before := *attr
		attr.Priority += boost
		_ = unix.SchedSetAttr(0, attr, 0)
		return func() { _ = unix.SchedSetAttr(0, &before, 0) }
	}
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, 0, boosted) != nil {
		return func() {}
	}
	// The system call itself returns 20-nice, so that it is never negative.
	return func() { _ = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-raw) }
}

// GiveWay puts a thread behind the others of a measurement. Best effort.
func GiveWay(tid int) {
	if attr, ok := realTime(tid); ok {
		attr.Priority = 1 // the lowest
		_ = unix.SchedSetAttr(tid, attr, 0)
		return
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, tid, yielding)
}

// realTime returns how a thread is scheduled, if that is by real-time priority: then
// niceness means nothing. A whole measurement runs so on a machine that others use
// (chrt -r 5 loadtest …).
func realTime(tid int) (attr *unix.SchedAttr, ok bool) {
	attr, err := unix.SchedGetAttr(tid, 0)
	return attr, err == nil && (attr.Policy == unix.SCHED_RR || attr.Policy == unix.SCHED_FIFO)
}
