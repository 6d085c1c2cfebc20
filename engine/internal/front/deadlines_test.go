package front

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
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

// A deadline may come while netpoll still takes the connection in. Nobody but netpoll may
// close it then: its poller would register a descriptor that is another's by then, or an
// operator that it has given back.
func TestDeadlinesComeWhileNetpollTakesAConnectionIn(t *testing.T) {
	s := serve(t, Config{HandshakeTimeout: time.Nanosecond})
	var dialing sync.WaitGroup
	for range 4 {
		dialing.Go(func() {
			for range 500 {
				conn, err := net.Dial("tcp", s.front.Addrs()[0].String())
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, conn)
				_ = conn.Close()
				if err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Error(err)
					return
				}
			}
		})
	}
	dialing.Wait()
	eventually(t, func() bool { return s.front.Stats().Handshakes == 0 }, "all are closed")
	require.EqualValues(t, 2000, s.front.Stats().Refused[RefuseTimeout])
}
