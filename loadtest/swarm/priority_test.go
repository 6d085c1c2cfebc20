//go:build linux

package swarm

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// onAThread runs f on a thread that ends with it, so that what it changes is nobody's.
func onAThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		f()
	}()
	<-done
}

// With real-time priority niceness means nothing: who measures must come first all the same,
// and neighbours last.
func TestPriorityHoldsAmongRealTimeThreads(t *testing.T) {
	onAThread(func() {
		if unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 5}, 0) != nil {
			t.Log("not allowed here: only that nothing fails is tested")
			Boost()()
			GiveWay(unix.Gettid())
			return
		}
		priority := func() uint32 {
			attr, err := unix.SchedGetAttr(0, 0)
			if err != nil || attr.Policy != unix.SCHED_RR {
				t.Errorf("scheduled by %+v, %v", attr, err)
				return 0
			}
			return attr.Priority
		}
		restore := Boost()
		require.EqualValues(t, 5+boost, priority())
		restore()
		require.EqualValues(t, 5, priority())
		GiveWay(unix.Gettid())
		require.EqualValues(t, 1, priority())
	})
}

func TestNeighboursAreNicer(t *testing.T) {
	onAThread(func() {
		before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		require.NoError(t, err)
		GiveWay(unix.Gettid())
		now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		require.NoError(t, err)
		if attr, ok := realTime(0); ok {
			require.EqualValues(t, 1, attr.Priority)
			return
		}
		require.LessOrEqual(t, now, before, "the system call returns 20-nice")
		require.Equal(t, 20-yielding, now)
	})
}
