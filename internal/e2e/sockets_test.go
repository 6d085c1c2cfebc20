//go:build e2e

package e2e

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// TestTwoProcessesShareAPort: with SO_REUSEPORT the kernel spreads connections over
// both, and when one ends its clients go on with the other.
func TestTwoProcessesShareAPort(t *testing.T) {
	r := redistest.Start(t)
	address := freeHost(t)
	a := startReady(t, r, "--reuse-port", "--listen", address)
	b := startReady(t, r, "--reuse-port", "--listen", address)
	clients := make([]*reader, 40)
	for i := range clients {
		clients[i] = newReader(address, "a")
	}
	follow(t, clients)
	eventually(t, "streams on both", func() bool {
		one, other := a.metric("ssed_streams"), b.metric("ssed_streams")
		return one > 0 && other > 0 && int(one+other) == len(clients)
	})
	publish(t, r, "a", "0")
	waitFirst(t, clients)
	a.Signal(sigterm)
	require.Zero(t, a.wait(t))
	publish(t, r, "a", "1")
	b.waitStreams(len(clients))
	publish(t, r, "a", "2")
	wantAll(t, clients, 3)
}

// TestSeveralListeners: what is published reaches the streams of each address.
func TestSeveralListeners(t *testing.T) {
	r := redistest.Start(t)
	addresses := []string{freeHost(t), freeHost(t), "[::1]:" + strconv.Itoa(freePort(t))}
	in := startReady(t, r, "--listen", addresses[0], "--listen", addresses[1]+","+addresses[2])
	var streams []*stream
	for i, address := range addresses {
		streams = append(streams, openStream(t, streamURL(address, "a")))
		in.waitStreams(i + 1)
	}
	publish(t, r, "a", "to all")
	for _, s := range streams {
		s.want("to all")
	}
}
