//go:build linux

package front

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ssed/engine/internal/wiretest"
)

// TestStopRefusesTheQueueBesideAnAccept: a queue has up to 4,096 connections, and the goroutine
// that accepts serves the handshakes too. So the two do not wait for each other.
func TestStopRefusesTheQueueBesideAnAccept(t *testing.T) {
	h := listenOnly(t, Config{RetryMin: time.Second, RetryMax: time.Second})
	l := h.front.listeners[0]
	l.startServing()
	t.Cleanup(l.close)
	var clients []*wiretest.Conn
	for range 10 {
		clients = append(clients, h.dialFrom("").Send(getStream("a", asEventSource)))
	}
	stopped := make(chan bool, 1)
	func() {
		l.mu.Lock() // as an accept under way has it
		defer l.mu.Unlock()
		go func() { stopped <- l.stop() }()
		for _, w := range clients {
			require.Equal(t, http.StatusOK, w.Answer(http.MethodGet).StatusCode)
			w.RequireRetry(time.Second, time.Second)
			w.RequireEnd()
		}
		require.True(t, <-stopped, "its loop closes it")
	}()
	require.EqualValues(t, len(clients), h.front.Stats().Refused[RefuseDraining])
	_, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestConnectionsInTheQueueOfAStopEndOnce: some are taken by Accept, the others by the stop,
// and the last ones are reset. With the race detector a descriptor that is closed twice is
// another's the second time (renumber).
func TestConnectionsInTheQueueOfAStopEndOnce(t *testing.T) {
	const clients = 300
	h := listenOnly(t, Config{})
	l := h.front.listeners[0]
	l.mu.Lock() // Accept waits, so that the queue fills
	require.NoError(t, h.front.Serve())
	var mu sync.Mutex
	var answered, reset int // guarded by mu
	var connected, ended sync.WaitGroup
	connected.Add(clients)
	for range clients {
		ended.Go(func() {
			w, err := net.Dial(h.network, h.addr)
			connected.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			_ = w.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.WriteString(w, getStream("a", asEventSource))
			answer, err := io.ReadAll(w)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case len(answer) > 0:
				answered++
			case errors.Is(err, unix.ECONNRESET):
				reset++
			default:
				t.Errorf("neither an answer nor a reset: %v", err)
			}
		})
	}
	connected.Wait()
	ended.Go(h.front.StopAccepting)
	eventually(t, h.front.draining.Load, "no stream is taken any more")
	l.mu.Unlock()
	ended.Wait()
	t.Logf("%d answered, %d reset", answered, reset)
	require.Equal(t, clients, answered+reset)
	require.Positive(t, answered)
	require.GreaterOrEqual(t, h.front.Stats().Refused[RefuseDraining], uint64(answered))
	eventually(t, func() bool { return h.conns.Load() == 0 }, "all are closed")
}
