//go:build linux

package swarm

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// clockStart pairs a Go time with CLOCK_MONOTONIC, which both advance alike. It
// lets Now read the clock without a system call and still agree with the other
// processes of the host. Latencies between processes are wrong by what the pairs
// are, so the two clocks are read close together.
var clockStart, clockOffset = startClock()

// pairWithin is how far apart the readings around CLOCK_MONOTONIC may lie; they
// take 0.3 µs, and far more when the thread is put aside in between.
const (
	pairWithin = 2 * time.Microsecond
	pairTries  = 100
)

func startClock() (start time.Time, offset int64) {
	closest := time.Duration(math.MaxInt64)
	for n := 0; n < pairTries && closest > pairWithin; n++ {
		var ts unix.Timespec
		before := time.Now()
		err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
		apart := time.Since(before)
		if err != nil {
			panic("swarm: no monotonic clock: " + err.Error()) // Linux always has one
		}
		if apart < closest {
			closest, start, offset = apart, before.Add(apart/2), ts.Nano()
		}
	}
	return start, offset
}

// Now returns CLOCK_MONOTONIC in nanoseconds: the same in every process of the
// host, and never set back.
func Now() int64 { return clockOffset + int64(time.Since(clockStart)) }

// SleepUntil blocks the calling thread until Now reaches due. It does not use a
// Go timer: those are up to 1 ms late in an idle process, clock_nanosleep about
// 0.06 ms.
func SleepUntil(due int64) {
	ts := unix.NsecToTimespec(due)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) == unix.EINTR {
	}
}
