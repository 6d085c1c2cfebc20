package front

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two tasks of one connection overlap as netpoll lets them: the first is through with
// its input and returning, the second starts, detaches and is not yet out of netpoll.
func TestConnectionIsHandedOverOnceAndAfterAllItsTasks(t *testing.T) {
	const rounds = 100_000 // with count and mark in two words one in some 20,000 went wrong
	var counts [rounds]tasks
	var inNetpoll [rounds]atomic.Bool // the second task has detached and not returned
	var handed, early [rounds]atomic.Int32
	leave := func(r int) {
		if !counts[r].leave() {
			return
		}
		handed[r].Add(1)
		if inNetpoll[r].Load() {
			early[r].Add(1)
		}
	}
	var at [2]atomic.Int64 // the rounds that the two have come to
	meet := func(who int, r int64) {
		at[who].Store(r)
		for at[1-who].Load() < r {
			runtime.Gosched()
		}
	}
	var both sync.WaitGroup
	both.Go(func() {
		for r := range rounds {
			counts[r].enter()
			meet(0, int64(r+1))
			for range r % 32 { // returns sooner or later than the other detaches
				at[0].Load()
			}
			leave(r)
		}
	})
	both.Go(func() {
		for r := range rounds {
			meet(1, int64(r+1))
			counts[r].enter()
			inNetpoll[r].Store(true)
			counts[r].detach()
			for range 32 {
				at[1].Load()
			}
			inNetpoll[r].Store(false)
			leave(r)
		}
	})
	both.Wait()
	for r := range rounds {
		require.EqualValues(t, 1, handed[r].Load(), "round %d: times that the connection was handed over", r)
		require.Zero(t, early[r].Load(), "round %d: handed over while a task still runs", r)
	}
}
