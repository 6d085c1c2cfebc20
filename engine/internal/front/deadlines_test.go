package front

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDeadlinesEndInTheOrderOfArming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan *handshake, 10)
		d := newDeadlines(time.Second, func(h *handshake) { ended <- h })
		var running sync.WaitGroup
		running.Go(d.run)
		a, b, c := new(handshake), new(handshake), new(handshake)
		for _, h := range []*handshake{a, b, c} {
			require.True(t, d.arm(h))
			time.Sleep(100 * time.Millisecond)
		}
		d.disarm(b)
		require.True(t, d.arm(a)) // again: now the last
		start := time.Now()
		require.Same(t, c, <-ended)
		require.InDelta(t, 0.9, time.Since(start).Seconds(), 0.021)
		require.Same(t, a, <-ended)
		require.InDelta(t, 1, time.Since(start).Seconds(), 0.021)

		require.True(t, d.arm(b))
		d.close()
		running.Wait()
		require.Same(t, b, <-ended)
		require.Empty(t, ended)
		require.False(t, d.arm(a))
	})
}
